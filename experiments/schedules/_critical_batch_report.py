"""What is said of the steps to a goal: the fit, the regimes, the noise scale beside them, and predictions."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.engine import compare
from experiments.engine.reports import Record
from experiments.schedules._steps_to_goal import measure, noise_along
from experiments.schedules._workloads import Workload
from minibatch_jax.schedules import critical_batch_size, fit_critical_batch, perfect_scaling_line, scaling_regimes

LARGE = 2**20
"""stands for a batch size beyond those measured"""

Curve = dict[int | float, dict[str, float]]


def measure_all(
    config: Any, workloads: dict[str, Callable[[], Workload]], baseline: Any, compared: tuple[int, ...]
) -> list[Record]:
    """Measure all workloads; then compare what the noise scale and perfect scaling predict for the larger batches.

    The critical batch sizes are fitted to the batch sizes `compared`, which all workloads have.
    """
    arms = {name: curves(config, make) for name, make in workloads.items()}
    better = {"critical_batch": "higher"}
    summary = functools.partial(summarized, config, compared)
    records = compare(config, arms, xlabel="batch size", summary=summary, baseline=baseline, better=better)
    predictions(config, records)
    return records


def curves(config: Any, make: Callable[[], Workload]) -> Callable[[int], Curve]:
    """The arm: steps by batch size of a seed. All seeds are measured at once, when the first one is asked for."""

    @functools.cache
    def measured() -> dict[int, Curve]:
        workload = make()
        found, goal = measure(workload, config.seeds)
        at = found[workload.noise_batch]
        noise_steps = math.ceil(max(s for s in (*at.steps, at.tuned_steps) if math.isfinite(s)))
        by_seed: dict[int, Curve] = {}
        for number, seed in enumerate(config.seeds):
            curve: Curve = {
                size: {
                    "steps": values.steps[number],
                    "examples": size * values.steps[number],
                    "log2_rate": math.log2(values.rate),
                }
                for size, values in found.items()
            }
            noise = noise_along(workload, at.rate, noise_steps, seed)[: math.ceil(min(at.steps[number], noise_steps))]
            curve[workload.batch_sizes[-1]] |= {
                "goal": goal,
                "noise_scale": float(np.nanmedian(noise)),
                "noise_scale_early": float(np.nanmedian(noise[: len(noise) // 8 + 1])),
                "noise_scale_late": float(np.nanmedian(noise[-(len(noise) // 8 + 1) :])),
                "noise_unknown": float(np.mean(np.isnan(noise))),
            }
            by_seed[seed] = curve
        return by_seed

    return lambda seed: measured()[seed]


def summarized(config: Any, compared: tuple[int, ...], records: list[Record]) -> dict[str, float]:
    """The fit to one seed: critical batch size, regimes, and the noise scale beside the fitted one, b / a."""
    sizes, steps = steps_of(records)
    fit = fit_critical_batch(jnp.asarray(sizes), jnp.asarray(steps))
    common = fit_critical_batch(
        jnp.asarray(sizes), jnp.asarray([s if b in compared else math.inf for b, s in zip(sizes, steps)])
    )
    regimes = scaling_regimes(sizes, jnp.asarray(steps))
    last = {name: math.nan if value is None else value for name, value in records[-1]["metrics"].items()}
    turn = float(fit.b / fit.a)
    return {
        "critical_batch": float(critical_batch_size(common.a, common.b, sizes[0], config.overhead)),
        "turn": turn,
        "noise_scale": last["noise_scale"],
        "log2_ratio": math.log2(last["noise_scale"] / turn),
        "noise_scale_early": last["noise_scale_early"],
        "noise_scale_late": last["noise_scale_late"],
        "fewest_steps": float(fit.a),
        "fewest_examples": float(fit.b),
        "fit_error": float(fit.error),
        "log2_perfect_until": math.log2(regimes.perfect_until),
        "log2_maximal_from": math.log2(min(float(regimes.maximal_from), LARGE)),
        "goal": last["goal"],
        "steps_smallest": steps[0],
        "steps_largest": steps[-1],
    }


def steps_of(records: list[Record]) -> tuple[tuple[float, ...], np.ndarray]:
    """Batch sizes and steps of one seed, inf where the goal was not reached."""
    steps = [math.inf if (s := r["metrics"]["steps"]) is None else s for r in records]
    return tuple(float(r["step"]) for r in records), np.asarray(steps, np.float32)


def predictions(config: Any, records: list[Record]) -> list[Record]:
    """Compare what predicts the steps of all batch sizes from those of the smallest one."""

    def error(name: str, noise: bool, seed: int) -> dict[str, float]:
        own = [r for r in records if (r["arm"], r["seed"]) == (name, seed)]
        sizes, steps = steps_of(own)
        predicted = np.asarray(perfect_scaling_line(sizes, jnp.asarray(steps)))
        if noise:
            scale = own[-1]["metrics"]["noise_scale"]
            predicted = steps[0] * (1 + scale / np.asarray(sizes)) / (1 + scale / sizes[0])
        return {"log2_error": float(np.mean(np.abs(np.log2(predicted[1:] / steps[1:]))))}

    names = dict.fromkeys(r["arm"] for r in records)
    arms: dict[str, Any] = {}
    for name in names:
        arms[f"{name}: perfect scaling"] = functools.partial(error, name, False)
        arms[f"{name}: noise scale"] = functools.partial(error, name, True)
    baseline = {f"{name}: noise scale": f"{name}: perfect scaling" for name in names}
    whole: dict[str, Any] = {"arms": ()} if hasattr(config, "arms") else {}  # its names are not those of the arms here
    own = dataclasses.replace(config, out=str(Path(config.out) / "predictions"), **whole)
    return compare(own, arms, baseline=baseline, better={"log2_error": "lower"})
