"""DOC"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments.datasets import check_fetched
from experiments.engine import compare
from experiments.engine.reports import Record
from experiments.mixing import _mixture_predictors as predictors
from experiments.shared.mixture_runs import Runs, mixture_runs

LAW, LINEAR = predictors.mixing_law, predictors.ridge_regression
BASELINE = "mean of the runs"


def _law(ridge: float, delta: float) -> dict[str, float]:
    return {"ridge": ridge, "delta": delta}


HELD_OUT = ("1m", "60m", "1b")
BETTER = {f"rank_{size}": "higher" for size in HELD_OUT}
METHODS: dict[str, Callable[..., predictors.Predict]] = {
    BASELINE: predictors.constant,
    "mixing law": LAW,
    "BiMix": predictors.bimix,
    "RegMix, linear": LINEAR,
    "RegMix, quadratic": functools.partial(LINEAR, features="quadratic"),
    "RegMix, LightGBM": predictors.lightgbm,
    "Gaussian process": predictors.gaussian_process,
    "Gaussian process, log": functools.partial(predictors.gaussian_process, own_lengths=False),
}
TUNED: dict[str, dict[str, Any]] = {
    "mixing law": {
        "pile_cc": {16: _law(0.1, 0.1), 64: _law(1e-3, 0.5), 256: _law(1e-4, 0.5)},
        "mean": {16: _law(1e-3, 0.5), 256: _law(1e-4, 0.5), 64: _law(1e-4, 0.5)},
    },
    "BiMix": {"pile_cc": {16: {"floor": 1e-2}}, "mean": {16: {"floor": 1e-4}}},
    "RegMix, linear": {
        "pile_cc": {16: {"ridge": 1e-2}, 64: {"ridge": 1e-1}, 256: {"ridge": 1e-2}},
        "mean": {16: {"ridge": 1e-3}, 64: {"ridge": 1e-2}},
    },
    "RegMix, quadratic": {
        "pile_cc": {16: {"ridge": 1e-2}, 64: {"ridge": 1e-1}},
        "mean": {16: {"ridge": 1e-3}, 64: {"ridge": 1e-1}},
    },
    "RegMix, LightGBM": {
        "pile_cc": {16: {"smallest_leaf": 2}, 64: {"smallest_leaf": 5}, 256: {"smallest_leaf": 20}},
        "mean": {16: {"smallest_leaf": 5}, 64: {"smallest_leaf": 20}},
    },
    "Gaussian process": {
        "pile_cc": {16: {"own_lengths": False}, 64: {"own_lengths": True}},
        "mean": {16: {"own_lengths": False}, 64: {"own_lengths": False}, 256: {"own_lengths": True}},
    },
    "Gaussian process, log": {"pile_cc": {16: {"floor": 3e-3}}, "mean": {16: {"floor": 1e-3}}},
}
"""arm -> target and number of runs -> arguments"""


@dataclasses.dataclass(frozen=True)
class Config:
    """Which runs are fitted; the seed decides the subset."""

    seeds: tuple[int, ...] = tuple(range(10))
    out: str = "runs/mixture_laws"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    targets: tuple[str, ...] = ("pile_cc", "mean")
    """validation domains whose loss is predicted, or "mean" for the mean over all 13"""
    runs: tuple[int, ...] = (16, 64, 256, 512)
    """how many of the 512 runs are fitted; all of them with the first seed only"""


def main(config: Config) -> list[Record]:
    """Fit and judge all arms for each target and number of runs."""
    check_fetched("regmix")
    train, tests = mixture_runs("train"), {size: mixture_runs(f"test_{size}") for size in HELD_OUT}
    made = []
    for target in config.targets:
        for count in config.runs:
            seeds = config.seeds if count < len(train.losses) else config.seeds[:1]
            out = str(Path(config.out) / target / f"{count}_runs")
            part = dataclasses.replace(config, seeds=seeds, out=out, targets=(target,), runs=(count,))
            arms = {name: functools.partial(judged, name, target, count, train, tests) for name in METHODS}
            made += compare(part, arms, baseline=BASELINE, better=BETTER)
    return made


def judged(name: str, target: str, count: int, train: Runs, tests: dict[str, Runs], seed: int) -> dict[str, float]:
    """Figures of an arm on all held-out runs, fitted to a random subset of `count` runs."""
    predict = METHODS[name](subset(train, count, seed), target, seed, **arguments(name, target, count))
    return {
        f"{figure}_{size}": value
        for size, runs in tests.items()
        for figure, value in figures(predict(runs.mixtures), runs.target(target)).items()
    }


def arguments(name: str, target: str, count: int) -> dict[str, Any]:
    """What was tuned for the nearest number of runs."""
    tuned = TUNED.get(name, {}).get(target, {})
    return tuned[min(tuned, key=lambda runs: abs(np.log(runs / count)))] if tuned else {}


def subset(train: Runs, count: int, seed: int) -> Runs:
    """`count` runs without repetition."""
    chosen = np.random.default_rng(seed).permutation(len(train.losses))[:count]
    return Runs(train.mixtures[chosen], train.losses[chosen])


def figures(predicted: np.ndarray, losses: np.ndarray) -> dict[str, float]:
    """Rank correlation (Spearman), mean absolute error, the same after the best affine map, and the regret.

    The regret is the loss of the run with the lowest prediction, or the mean over those that tie, less the lowest.
    """
    lowest = losses[predicted == predicted.min()].mean()
    varies = np.ptp(predicted) > 0
    centered = predicted - predicted.mean()
    slope = (centered @ (losses - losses.mean())) / (centered @ centered) if varies else 0.0
    mapped = losses.mean() + slope * centered
    rank: Any = spearmanr(predicted, losses)[0] if varies else 0.0
    return {
        "rank": float(rank),
        "error": float(np.abs(predicted - losses).mean()),
        "mapped_error": float(np.abs(mapped - losses).mean()),
        "regret": float(lowest - losses.min()),
    }
