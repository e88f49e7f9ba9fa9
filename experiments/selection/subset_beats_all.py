"""Where a subset of the rows teaches more than all of them: noise that differs between rows, and a model that is wrong.

Claim: chosen by what a weak model says of them, and not corrected for it, a part of the rows can give a better fit than
  all; corrected weights never do while the number of rows is large.
Data: TODO
Command: `python -m experiments subset_beats_all`
Minutes: 4 on one CPU core
Expected: TODO
Verdict: partly: TODO
Tuning: none
Reference: Kolossov, Montanari & Tandon, Towards a statistical theory of data selection under weak supervision, 2024
  (arXiv 2309.14563).
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from experiments.engine import compare
from experiments.engine.panels import draw_panels
from experiments.selection._subset_problems import Problem, Task, make_problem
from minibatch_jax.selection import power_inclusion

TASKS: tuple[Task, ...] = ("noise", "step", "fashion_mnist", "bicycles")


@dataclass(frozen=True)
class Config:
    """All arms at a share have as many labels in expectation, except for all rows."""

    seeds: tuple[int, ...] = tuple(range(20))
    out: str = "runs/subset_beats_all"
    task: Literal["all", "noise", "step", "fashion_mnist", "bicycles"] = "all"
    arms: tuple[str, ...] = ()
    percents: tuple[int, ...] = (20, 40, 60, 80)
    """shares of the rows that are kept"""


Inclusion = Callable[[np.ndarray, float], np.ndarray]
"""(uncertainty [N], share) -> probabilities to be kept [N]"""


def main(config: Config):
    """Fit all arms at all shares, and report."""
    tasks: tuple[Task, ...] = TASKS if config.task == "all" else (config.task,)
    records = {}
    for task in tasks:
        problem = functools.cache(functools.partial(make_problem, task))
        arms = {name: arm(config, problem, *chosen) for name, chosen in selections().items()}
        changed = dataclasses.replace(config, task=task, out=str(Path(config.out) / task))
        records[task] = compare(
            changed, arms, xlabel="percent kept", summary=by_percent, baseline="all", better=better(config)
        )
    draw_panels(records, "error", "percent kept", Path(config.out) / "errors.png", log=(False, False))
    return [record for made in records.values() for record in made]


def selections() -> dict[str, tuple[Inclusion, bool]]:
    """Name -> probabilities to be kept, and whether weights are divided by them."""
    made: dict[str, tuple[Inclusion, bool]] = {"all": (everything, False), "random": (power(0.0), False)}
    made |= {f"power {alpha}": (power(alpha), False) for alpha in (-1.0, 1.0)}
    made |= {f"power {alpha}, unbiased": (power(alpha), True) for alpha in (-1.0, 1.0)}
    return made | {"most certain": (power(-np.inf), False), "most uncertain": (power(np.inf), False)}


def power(alpha: float) -> Inclusion:
    """Probabilities by a power of the uncertainty; an infinite power keeps one end of the order."""

    def inclusion(uncertainty, share):
        if np.isinf(alpha):
            ranks = np.argsort(np.argsort(-np.sign(alpha) * uncertainty))
            return (ranks < round(share * len(ranks))).astype(float)
        return np.asarray(power_inclusion(jnp.asarray(uncertainty, jnp.float32), share, alpha), float)

    return inclusion


def everything(uncertainty: np.ndarray, share: float) -> np.ndarray:
    """All rows, whatever the share."""
    return np.ones(len(uncertainty))


def arm(
    config: Config, problem: Callable[[int], Problem], inclusion: Inclusion, unbiased: bool
) -> Callable[[int], Any]:
    """The error of the fit to what is kept, by the share, and that which theory tells."""

    def measured(seed):
        found, metrics = problem(seed), {}
        for percent in config.percents:
            share = percent / 100
            kept = inclusion(found.uncertainty, share)
            drawn = np.random.default_rng([seed, percent]).random(len(kept)) < kept
            metrics[percent] = {"error": found.error(np.where(drawn, 1 / kept if unbiased else 1, 0.0))}
            if found.theory is not None:
                metrics[percent]["theory"] = found.theory(lambda values, at=share: inclusion(values, at), unbiased)
        return metrics

    return measured


def better(config: Config) -> dict[str, str]:
    """Which way is better, of the numbers that the claim is about."""
    return {f"error, {percent} %": "lower" for percent in config.percents}


def by_percent(records) -> dict[str, float]:
    """The numbers of the table: each metric at each share."""
    return {f"{name}, {r['step']} %": value for r in records for name, value in r["metrics"].items()}
