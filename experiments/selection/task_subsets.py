"""Which few validation losses to measure, from which all others follow for mixtures unlike those seen."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from experiments.engine import compare
from experiments.shared.mixture_runs import mixture_runs
from minibatch_jax import selection

SEARCHED = 500
FAMILIES = 5


@dataclass(frozen=True)
class Config:
    """All arms measure as many losses of the runs to judge."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/task_subsets"
    arms: tuple[str, ...] = ()
    runs: int = 60
    """drawn by the seed, of which all losses are known"""
    budgets: tuple[int, ...] = (1, 2, 4, 8)
    """losses to measure"""
    ridge: float = 0.1
    validate: bool = False
    """other runs: for tuning"""


class Problem(NamedTuple):
    """Losses of runs `[M, T]` and their families `[M]`, and losses of runs of a family that is not among them."""

    record: jax.Array
    families: jax.Array
    judged: jax.Array


Choice = Callable[[Config, Problem, int, int], Any]
"""(config, problem, budget, number of the draw) -> the losses to measure"""


def main(config: Config):
    """Choose losses on the runs of some families, and judge the runs of another one."""
    arms: dict[str, Choice] = {
        "random losses": at_random,
        "best of 500 random": best_of_many,
        "greedy": lambda config, problem, budget, seed: _greedy(problem.record, budget),
        "clusters": clusters,
    }
    problems = functools.lru_cache(FAMILIES)(functools.partial(make_problem, config))
    measured: Any = {name: functools.partial(measure, config, problems, arm) for name, arm in arms.items()}
    better = {"R2, k = 2": "higher", "error of the mean, k = 2": "lower"}
    return compare(
        config, measured, xlabel="losses measured", summary=by_budget, baseline="random losses", better=better
    )


def make_problem(config: Config, seed: int, held_out: int) -> Problem:
    """Draw runs that are not of a family; a family of runs has most of its tokens from the same group of domains."""
    runs = mixture_runs("test_1m" if config.validate else "train")
    family = families(runs.mixtures)
    rng = np.random.default_rng([seed, held_out])
    others = np.flatnonzero(family != held_out)
    chosen = rng.choice(others, min(config.runs, len(others)), replace=False)
    arrays = runs.losses[chosen], family[chosen], runs.losses[family == held_out]
    return Problem(*(jnp.asarray(a, jnp.int32 if a.dtype.kind == "i" else jnp.float32) for a in arrays))


def families(mixtures: np.ndarray) -> np.ndarray:
    """The domain with the largest proportion `[M]`, of the four that lead most runs, or 4 for all other domains."""
    first = mixtures.argmax(1)
    common = np.argsort(-np.bincount(first, minlength=mixtures.shape[1]), kind="stable")[: FAMILIES - 1]
    place = np.full(mixtures.shape[1], FAMILIES - 1)
    place[common] = np.arange(FAMILIES - 1)
    return place[first]


_greedy = jax.jit(lambda record, k: selection.representative_tasks(record, k).indices, static_argnums=1)


def at_random(config: Config, problem: Problem, budget: int, seed: int) -> np.ndarray:
    """Losses that are equally likely."""
    rng = np.random.default_rng([seed, budget])
    return rng.choice(problem.record.shape[1], budget, replace=False)


def best_of_many(config: Config, problem: Problem, budget: int, seed: int) -> jax.Array:
    """The best of random choices for families that are left out of the known runs in turn."""
    rng = np.random.default_rng([seed, budget])
    choices = np.stack([rng.choice(problem.record.shape[1], budget, replace=False) for _ in range(SEARCHED)])
    return _best(problem.record, problem.families, jnp.asarray(choices, jnp.int32), config.ridge)


@jax.jit
def _best(record: jax.Array, families: jax.Array, choices: jax.Array, ridge: float) -> jax.Array:
    def value(indices):
        return selection.held_out_fit(record, families, FAMILIES, indices, ridge=ridge)

    return choices[jnp.argmax(jax.lax.map(value, choices, batch_size=50))]


def clusters(config: Config, problem: Problem, budget: int, seed: int) -> jax.Array:
    """The loss nearest to each center of clusters of losses, each standardized over the runs."""
    record = problem.record
    standard = (record - record.mean(0)[None]) / record.std(0)[None]
    return _anchors(seed, standard.T, budget)


_anchors = jax.jit(lambda key, features, k: selection.anchor_items(key, features, k).indices, static_argnums=2)


def measure(config: Config, problems: Callable[..., Problem], choice: Choice, seed: int) -> dict[int, dict[str, float]]:
    """Means over families that are held out, of the fit of the losses not measured and of the mean of all losses."""
    metrics = {}
    for budget in config.budgets:
        found = []
        for held_out in range(FAMILIES):
            problem = problems(seed, held_out)
            indices = jnp.asarray(choice(config, problem, budget, FAMILIES * seed + held_out), jnp.int32)
            found.append(scores(problem, indices, config.ridge))
        metrics[budget] = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    return metrics


def scores(problem: Problem, indices: jax.Array, ridge: float) -> dict[str, float]:
    """How well the runs of the family held out are predicted from some of their losses."""
    judged = np.asarray(problem.judged)
    predicted = np.asarray(selection.predict_tasks(problem.record, indices, problem.judged[:, indices], ridge=ridge))
    full = predicted.copy()
    full[:, np.asarray(indices)] = judged[:, np.asarray(indices)]
    others = np.setdiff1d(np.arange(judged.shape[1]), np.asarray(indices))
    spread = (judged - np.asarray(problem.record).mean(0))[:, others]
    return {
        "R2": 1 - np.sum((predicted - judged)[:, others] ** 2) / np.sum(spread**2),
        "error of the mean": np.abs(full.mean(1) - judged.mean(1)).mean(),
        "rank of the mean": float(np.asarray(spearmanr(full.mean(1), judged.mean(1)))[0]),
    }


def by_budget(records) -> dict[str, float]:
    """The numbers of the table: each metric at each budget."""
    return {f"{name}, k = {r['step']}": value for r in records for name, value in r["metrics"].items()}
