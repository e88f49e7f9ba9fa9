"""Experiments without a training loop: each arm is a function of the seed that returns numbers."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from experiments.engine.folders import chosen_arms, line, open_folder, progress_bar, report
from experiments.engine.reports import Record, Records, Summary, last_record
from experiments.engine.results import Baseline, Better, check_claim

Metrics = Mapping[str, Any]
Curve = Mapping[int | float, Metrics]


def compare(
    config: Any,
    arms: Mapping[str, Callable[[int], Metrics | Curve]],
    *,
    xlabel: str | None = None,
    summary: Summary = last_record,
    baseline: Baseline = None,
    better: Better = None,
) -> list[Record]:
    """Call every arm once for every seed, and report mean ± standard error.

    The folder `config.out` receives config.json, records.jsonl, table.md, result.json and, for curves, a PNG per
    metric. Calls that were made are not made again, so an experiment that was killed goes on with the arm and seed it
    was at. Seeds and arms may be added to a folder later; any other change of the config is refused. If the config has
    a field `arms`, it names the arms to call; empty means all.

    Args:
      config: the experiment's frozen dataclass, with fields `seeds` and `out`.
      arms: name -> `arm(seed)`, which gives a dict of scalars or, with `xlabel`, one such dict for each x:
        `{8: {"error": 0.3}, 16: {"error": 0.2}}`. It must be the same for the same seed, and arms meet the same seeds.
      xlabel: what x is; then each metric is drawn against it.
      summary: maps the records of one arm and seed (one for each x) to the numbers of the table; by default the last.
      baseline: name of the arm that knows nothing, to which the result gives the differences of the others by seed; or
        arm -> its baseline, where not all have the same.
      better: metric -> whether "higher" or "lower" is better, for the metrics that the claim is about; the page of
        results shows these, or the first metric if none is named.

    Returns:
      The records of these arms and seeds: dicts with arm, seed, step (x, or 0), metrics and seconds.
    """
    check_claim(baseline, better, arms)
    with open_folder(config) as records:
        chosen = chosen_arms(config, arms)
        with progress_bar("calls") as progress:
            task = progress.add_task("", total=len(chosen) * len(config.seeds))
            for seed in config.seeds:
                for name, arm in chosen.items():
                    progress.update(task, description=f"{name}, seed {seed}")
                    if not records.of(name, seed):
                        _call(records, name, arm, seed, xlabel is not None)
                        for record in records.of(name, seed):
                            progress.console.print(line(record), soft_wrap=True, highlight=False)
                    progress.advance(task)
        made = [r for name in chosen for seed in config.seeds for r in records.of(name, seed)]
        report(config, made, summary, xlabel, baseline=baseline, better=better)
    return made


def _call(records: Records, name: str, arm: Callable[[int], Any], seed: int, curve: bool) -> None:
    started = time.perf_counter()
    result = arm(seed)
    seconds = round(time.perf_counter() - started, 3)
    by_x = result if curve else {0: result}
    made = []
    for x, metrics in by_x.items():
        finite = {key: float(value) if math.isfinite(value) else None for key, value in metrics.items()}
        made.append({"arm": name, "seed": seed, "step": x, "metrics": finite, "seconds": seconds})
    records.extend(made)
