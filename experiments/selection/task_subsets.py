"""Which few validation losses to measure, from which all others follow for mixtures unlike those seen.

Claim: a few tasks that differ say most of all others, also for models of a family that was not seen; greedy choices and
  clusters are better than random ones, and not worse than a search.
Data: the 512 runs of 1M parameters that RegMix published, with 13 losses each. Runs whose mixture is led by the same
  domain are a family: the four commonest leading domains, and all others together. Per seed and family, 60 runs of the
  other families are the record, and all runs of the family are judged: some of their losses are measured, the others
  predicted by ridge regression. `python -m experiments.datasets fetch regmix`
Command: `python -m experiments task_subsets`
Minutes: 1 on one CPU core
Expected: mean ± standard error over 5 seeds of means over the five families, by the number k of losses measured. R2 is
  1 for a perfect prediction of the losses not measured and 0 for their means in the record; then the rank correlation
  and the absolute error of the mean of all losses, with the measured ones as they are:

  | R2                 | k = 1           | k = 2         | k = 4         | k = 8         |
  |--------------------|-----------------|---------------|---------------|---------------|
  | random losses      | 0.025 ± 0.016   | 0.010 ± 0.013 | 0.038 ± 0.015 | 0.110 ± 0.039 |
  | best of 500 random | 0.010 ± 0.010   | 0.044 ± 0.026 | 0.105 ± 0.023 | 0.361 ± 0.023 |
  | greedy             | 0.0028 ± 0.0038 | 0.026 ± 0.020 | 0.061 ± 0.017 | 0.339 ± 0.026 |
  | clusters           | -0.011 ± 0.027  | 0.072 ± 0.018 | 0.086 ± 0.033 | 0.178 ± 0.032 |

  | rank of the mean   | k = 1         | k = 2         | k = 4         | k = 8         |
  |--------------------|---------------|---------------|---------------|---------------|
  | random losses      | 0.42 ± 0.12   | 0.515 ± 0.035 | 0.702 ± 0.012 | 0.876 ± 0.007 |
  | best of 500 random | 0.225 ± 0.045 | 0.525 ± 0.036 | 0.783 ± 0.019 | 0.962 ± 0.001 |
  | greedy             | 0.571 ± 0.003 | 0.694 ± 0.020 | 0.817 ± 0.001 | 0.963 ± 0.001 |
  | clusters           | 0.363 ± 0.073 | 0.587 ± 0.046 | 0.737 ± 0.017 | 0.929 ± 0.010 |

  | error of the mean  | k = 1         | k = 2         | k = 4         | k = 8         |
  |--------------------|---------------|---------------|---------------|---------------|
  | random losses      | 0.233 ± 0.008 | 0.223 ± 0.010 | 0.196 ± 0.010 | 0.118 ± 0.003 |
  | best of 500 random | 0.250 ± 0.006 | 0.222 ± 0.009 | 0.168 ± 0.008 | 0.079 ± 0.002 |
  | greedy             | 0.206 ± 0.001 | 0.188 ± 0.008 | 0.169 ± 0.010 | 0.090 ± 0.003 |
  | clusters           | 0.258 ± 0.019 | 0.214 ± 0.009 | 0.175 ± 0.009 | 0.100 ± 0.006 |

  Reproduced: the greedy choice orders runs by their mean better than a random one with the same number of losses, by
  0.179 ± 0.024 with two and 0.114 ± 0.010 with four, and a search among 500 orders them no better. The search has a
  smaller error of the mean with eight (0.079 to 0.090). Clusters lie between random and greedy from two on.
  Not reproduced: that few say most. Losses that are not measured are hardly predicted for a family that was not seen,
  with any choice of four; greedy differs from random ones by less than two standard errors in R2 until eight. The loss
  in a domain follows its own proportion, and in a new family the leading domain had little of it in the record.
Verdict: partly: greedy choices order unseen mixtures better than random ones, but few losses do not predict the others.
Tuning: ridge {1e-4, 1e-3, 1e-2, 1e-1} by R2 over all arms, with --validate (other runs) and seeds 10 and 11.
Reference: Ye et al., How predictable are large language model capabilities? A case study on BIG-bench, Findings of
  EMNLP 2023 (arXiv 2305.14947).
"""

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
