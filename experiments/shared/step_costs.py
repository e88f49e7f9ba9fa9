"""What a training step of each arm costs in process CPU time, which other processes on the machine do not change."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from experiments.engine.loops import Arm
from experiments.engine.reports import markdown, print_table, write_text

STEPS = 20
REPEATS = 9


def print_step_costs(
    arms: Mapping[str, Arm], batch: Any, steps: Mapping[str, int], path: Path, repeats: int = REPEATS
) -> dict[str, float]:
    """Time each arm on a batch, arms in turn, and write the medians and what all `steps` of an arm cost.

    The first arm is the unit of the relative costs. Bind the process to one core, else threads that wait count too.
    Returns the milliseconds of a step.
    """
    calls = {name: _steps(arm, batch) for name, arm in arms.items()}
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - start) / STEPS)
    ms = {name: statistics.median(values) for name, values in times.items()}
    first = next(iter(ms))
    rows = [["arm", "CPU ms a step", f"relative to {first}", "steps", "CPU s for all steps"]]
    for name, value in ms.items():
        total = f"{value * steps[name] / 1e3:.1f}"
        rows.append([name, f"{value:.2f}", f"{value / ms[first]:.2f}", str(steps[name]), total])
    load = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    write_text(path, markdown(rows) + f"\n{load}\n")
    print_table(rows, f"Cost of a training step, {load}")
    return ms


def _steps(arm: Arm, batch: Any) -> Callable[[], Any]:
    @jax.jit
    def call(state):
        return jax.lax.scan(lambda state, _: (arm.step(state, batch)[0], None), state, length=STEPS)[0]

    state = jax.jit(arm.init)(jax.random.key(0))
    return lambda: jax.block_until_ready(call(state))
