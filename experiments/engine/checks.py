"""`python -m experiments NAME --check`: the smallest arm again, with one seed, against the result in the repository."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.engine import results

STANDARD_ERRORS = 3.0
ROUNDING = 1e-3
"""relative difference that is always allowed, as another machine rounds otherwise"""
ALIKE = 1e-2
"""relative difference allowed where the seeds give no standard error"""
TIMES = ("seconds", "cpu", "_ms")
"""in the name of a metric that is a time, which another machine does not repeat"""


def check(name: str, config_type: Callable[..., Any], main: Callable[[Any], Any]) -> bool:
    """Run the arm with the fewest seconds of the first table again, and print its numbers beside the stored ones.

    One run scatters by the stored standard error times the square root of the number of seeds, n, so a number agrees if
    it lies within `3 * error * sqrt(n)` of the stored mean. If all seeds gave the same, or only one gave a number, it
    agrees within 1 %; times are shown and not compared. Only the first table, as only its call is made.

    Returns:
      Whether all agree.
    """
    path = results.RESULTS / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, wanted the result to compare with: run python -m experiments {name}."
        )
    table = next(iter(json.loads(path.read_text(encoding="utf-8"))["tables"].values()))
    arms, seeds = table["arms"], table["seeds"]
    arm = min(arms, key=lambda arm: arms[arm]["seconds"])
    print(f"Running {arm!r} with seed {seeds[0]}: {arms[arm]['seconds'] / len(seeds):.1f} s when it was stored.")
    with tempfile.TemporaryDirectory() as folder:
        config = dataclasses.replace(config_type(), seeds=(seeds[0],), out=str(Path(folder) / name))
        found = results.first_table(arm, lambda: main(config))
    wrong = []
    for metric, stored in arms[arm]["metrics"].items():
        value = found["arms"][arm]["metrics"].get(metric, {"mean": None})["mean"]
        is_time = any(word in metric.lower() for word in TIMES)
        agrees = is_time or within(value, stored, len(seeds))
        wrong += [] if agrees else [metric]
        verdict = "a time, not compared" if is_time else "agrees" if agrees else "DIFFERS"
        print(f"  {metric}: {value} now, {stored['mean']} ± {stored['error']} stored: {verdict}")
    print(f"{name}: {f'{len(wrong)} numbers differ' if wrong else 'all numbers agree'}.")
    return not wrong


def within(value: float | None, stored: dict[str, Any], seeds: int) -> bool:
    """Whether a number of one seed agrees with a stored figure."""
    mean, error, finite = stored["mean"], stored["error"], stored["finite"]
    if value is None or mean is None:
        return value is None and finite < seeds
    if not error:
        return abs(value - mean) <= ALIKE * abs(mean)
    return abs(value - mean) <= max(STANDARD_ERRORS * error * math.sqrt(finite), ROUNDING * abs(mean))
