"""Run arms x seeds with one progress bar, resume what was cut short, and report."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from experiments.engine.folders import chosen_arms, line, open_folder, progress_bar, report
from experiments.engine.loops import Arm, Batches, Data, Evaluate, Loop, State
from experiments.engine.reports import Record, Summary, last_record
from experiments.engine.results import Baseline, Better, check_claim


class Config(Protocol):
    """The fields of an experiment's frozen dataclass that `run` reads."""

    @property
    def seeds(self) -> tuple[int, ...]: ...
    @property
    def out(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def evaluate_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


def run(
    config: Any,
    arms: dict[str, Arm],
    data: Callable[[int], Data],
    evaluate: Evaluate,
    *,
    batches: Batches | None = None,
    steps_per_call: int = 1,
    summary: Summary = last_record,
    finish: Callable[[str, int, State, Data], None] | None = None,
    baseline: Baseline = None,
    better: Better = None,
) -> list[Record]:
    """Run every arm with every seed, resume what was cut short, and report.

    The folder `config.out` receives config.json, records.jsonl, table.md, result.json, a PNG per metric, and the
    checkpoints. A run that was killed goes on from its last checkpoint and ends bit for bit as if it had not been;
    finished runs are kept.
    Seeds may be added to a folder later; any other change of the config is refused. If the config has a field `arms`,
    it names the arms to run; empty means all.

    Args:
      config: the experiment's frozen dataclass, with the fields of `Config`.
      arms: name -> arm.
      data: `data(seed)` gives the splits, a pytree of arrays in a dict; batches are rows of `["train"]`, a dict of
        arrays with equal first axes. It must return the same for the same seed.
      evaluate: `evaluate(state, data(seed))` gives a dict of scalars.
      batches: `batches(length, batch_size, seed)` gives an iterator over `{"index": [B]}` with `get_state` and
        `set_state`; `experiments.datasets.batches` by default. Its seed is drawn from the run's, so that batches are
        independent of what `data` draws.
      steps_per_call: how many steps one compiled call scans over; more is faster for small MLPs and slower for CNNs on
        CPU. `steps`, `evaluate_every` and `checkpoint_every` must be multiples of it.
      summary: maps the records of one run to the numbers of the table; by default the last evaluation.
      finish: `finish(arm, seed, state, data(seed))` is called with the final state of every run, also of one that was
        made before: for pictures and measurements of the trained models.
      baseline: name of the arm that knows nothing, to which the result gives the differences of the others by seed; or
        arm -> its baseline, where not all have the same.
      better: metric -> whether "higher" or "lower" is better, for the metrics that the claim is about; the page of
        results shows these, or the first metric if none is named.

    Returns:
      The records of these arms and seeds: dicts with arm, seed, step, metrics and seconds (of this run so far).
    """
    _check_steps(config, steps_per_call)
    check_claim(baseline, better, arms)
    if batches is None:
        from experiments.datasets import batches
    with open_folder(config) as records:
        chosen = chosen_arms(config, arms)
        out = Path(config.out)
        loops = {name: Loop(config, name, arm, evaluate, steps_per_call, records, out) for name, arm in chosen.items()}
        all_data = {seed: _cached(data, seed) for seed in config.seeds}
        all_data[config.seeds[0]]()  # loads tensorflow-datasets, whose lazy imports would break a bar that is running
        with progress_bar("steps") as progress:
            task = progress.add_task("", total=config.steps * len(loops) * len(config.seeds))
            for seed in config.seeds:
                seed_data = all_data.pop(seed)
                for name, loop in loops.items():
                    progress.update(task, description=f"{name}, seed {seed}")
                    if loop.run(seed, seed_data, batches, functools.partial(progress.advance, task)):
                        progress.console.print(line(records.of(name, seed)[-1]), soft_wrap=True, highlight=False)
                    if finish is not None:
                        finish(name, seed, loop.final_state(seed, seed_data), seed_data())
        made = [r for name in chosen for seed in config.seeds for r in records.of(name, seed)]
        report(config, made, summary, baseline=baseline, better=better)
    return made


def _cached(data: Callable[[int], Data], seed: int) -> Callable[[], Data]:
    return functools.cache(lambda: jax.tree.map(jnp.asarray, data(seed)))


def _check_steps(config: Config, steps_per_call: int) -> None:
    for name in ("steps", "batch_size", "evaluate_every", "checkpoint_every"):
        value = getattr(config, name)
        unit = 1 if name == "batch_size" else steps_per_call
        if value < 1 or value % unit:
            raise ValueError(f"{name} is {value}, wanted a positive multiple of {unit}.")
