"""Regression when most sources are wrong: whole batches of a source tell it apart from others, single samples do not.

Claim: if only a small share of the sources is genuine, no single regression is safe; with several samples of each
  source a short list of regressors can be found, one of which is right, even if an adversary chose the other sources.
Data: `ten_groups`, 150 sources of 32 samples in 8 dimensions, noise 0.3, in ten groups of 15 with a regressor each, one
  group being genuine; `clusters`, 45 genuine, two groups of 35 and 35 sources of noise; `line`, 45 genuine, the wrong
  regressors spread on a segment of length 4 that begins at the genuine one; `bicycles`, 212 days of 24 hours of bicycle
  hire by hour, temperature, humidity and wind: the 69 days off are genuine, the working days are not.
  An adversary that knows the filters puts 105 of 150 sources where they may pass unseen, at a distance out of 0.05,
  0.1, 0.2, 0.3, 0.5, 1 and 2, whichever is worst for each method: all at one point (`side`), there and without noise
  (`quiet`), at seven points in orthogonal directions (`ring`), or spread on the way to one point (`chain`).
  First `python -m experiments.datasets fetch bikeshare` (17 MB).
Command: `python -m experiments list_decodable_regression`
Minutes: 5 on one CPU core
Expected: distance to the genuine regressor (bicycles: root mean square error on 30 other days off, in standard
  deviations of the target), mean ± standard error over 3 seeds, by the number n of samples that are known to come
  together. The samples are the same for all n. "list" is of trimmed refits from 40 starts, "multifilter" the paper's,
  run from n = 8 on; "trusted" are 16 samples that choose from it (of one day for bicycles). "random list" has as many
  least squares fits as the bound allows for, to random sources.

  | ten_groups              | n = 1         | n = 4         | n = 8         | n = 16        | n = 32        |
  |-------------------------|---------------|---------------|---------------|---------------|---------------|
  | OLS                     | 2.13 ± 0.34   | 2.13 ± 0.34   | 2.13 ± 0.34   | 2.13 ± 0.34   | 2.13 ± 0.34   |
  | Huber                   | 2.08 ± 0.36   | 2.08 ± 0.36   | 2.08 ± 0.36   | 2.08 ± 0.36   | 2.08 ± 0.36   |
  | soft filter             | 2.07 ± 0.37   | 1.99 ± 0.43   | 1.96 ± 0.43   | 1.99 ± 0.45   | 1.94 ± 0.46   |
  | OLS, one genuine batch  | 2.28 ± 0.40   | 1.73 ± 0.28   | 2.69 ± 0.86   | 0.300 ± 0.023 | 0.175 ± 0.001 |
  | trimmed, all trusted    | 0.210 ± 0.052 | 0.035 ± 0.003 | 0.034 ± 0.004 | 0.031 ± 0.004 | 0.031 ± 0.004 |
  | list, all trusted       | 1.80 ± 0.46   | 0.77 ± 0.74   | 0.034 ± 0.004 | 0.031 ± 0.004 | 0.031 ± 0.004 |
  | list, best of it        | 1.80 ± 0.46   | 0.77 ± 0.74   | 0.034 ± 0.004 | 0.031 ± 0.004 | 0.031 ± 0.004 |
  | random list, best of it | 1.81 ± 0.33   | 1.72 ± 0.32   | 1.58 ± 0.33   | 1.49 ± 0.27   | 1.42 ± 0.25   |
  | OLS, genuine sources    | 0.031 ± 0.004 | 0.031 ± 0.004 | 0.031 ± 0.004 | 0.031 ± 0.004 | 0.031 ± 0.004 |

  | bicycles                | n = 1         | n = 4         | n = 8         | n = 24        |
  |-------------------------|---------------|---------------|---------------|---------------|
  | OLS                     | 0.710 ± 0.009 | 0.710 ± 0.009 | 0.710 ± 0.009 | 0.710 ± 0.009 |
  | Huber                   | 0.718 ± 0.009 | 0.718 ± 0.009 | 0.718 ± 0.009 | 0.718 ± 0.009 |
  | soft filter             | 0.705 ± 0.005 | 0.748 ± 0.016 | 0.761 ± 0.010 | 0.805 ± 0.013 |
  | OLS, one genuine batch  | 0.961 ± 0.012 | 0.840 ± 0.015 | 0.877 ± 0.054 | 1.366 ± 0.059 |
  | trimmed, all trusted    | 0.772 ± 0.009 | 0.780 ± 0.019 | 0.788 ± 0.011 | 0.79 ± 0.11   |
  | list, all trusted       | 0.773 ± 0.026 | 0.786 ± 0.015 | 0.57 ± 0.12   | 0.451 ± 0.004 |
  | list, best of it        | 0.761 ± 0.026 | 0.779 ± 0.019 | 0.57 ± 0.12   | 0.451 ± 0.004 |
  | random list, best of it | 0.685 ± 0.011 | 0.675 ± 0.009 | 0.668 ± 0.016 | 0.661 ± 0.017 |
  | OLS, genuine sources    | 0.447 ± 0.005 | 0.447 ± 0.005 | 0.447 ± 0.005 | 0.447 ± 0.005 |

  The adversary, n = 32:

  | largest error            | side          | quiet         | ring          | chain         |
  |--------------------------|---------------|---------------|---------------|---------------|
  | OLS                      | 1.415 ± 0.002 | 1.416 ± 0.006 | 0.533 ± 0.013 | 0.714 ± 0.008 |
  | Huber                    | 1.814 ± 0.002 | 2.000 ± 0.000 | 0.399 ± 0.009 | 0.630 ± 0.013 |
  | soft filter              | 1.989 ± 0.006 | 2.000 ± 0.000 | 0.411 ± 0.005 | 0.531 ± 0.031 |
  | OLS, one genuine batch   | 0.162 ± 0.008 | 0.162 ± 0.008 | 0.162 ± 0.008 | 0.192 ± 0.003 |
  | trimmed, all trusted     | 0.262 ± 0.025 | 0.367 ± 0.067 | 0.046 ± 0.001 | 0.091 ± 0.003 |
  | list, all trusted        | 0.303 ± 0.011 | 0.300 ± 0.000 | 0.046 ± 0.001 | 0.098 ± 0.004 |
  | multifilter, all trusted | 0.148 ± 0.002 | 0.038 ± 0.006 | 0.119 ± 0.003 | 0.102 ± 0.004 |
  | list, best of it         | 0.303 ± 0.011 | 0.300 ± 0.000 | 0.046 ± 0.001 | 0.098 ± 0.004 |
  | multifilter, best of it  | 0.148 ± 0.002 | 0.027 ± 0.004 | 0.119 ± 0.003 | 0.102 ± 0.004 |
  | random list, best of it  | 1.186 ± 0.025 | 1.184 ± 0.027 | 0.467 ± 0.006 | 0.521 ± 0.028 |
  | OLS, genuine sources     | 0.019 ± 0.003 | 0.019 ± 0.003 | 0.019 ± 0.003 | 0.022 ± 0.002 |

  Reproduced: every single regression without trusted samples fails, and the lists have the right one: trimmed refits
  from n = 8 on; the multifilter asks for more samples of a source. A list is worth nothing without samples to choose
  by.
  Against the adversary single regressions and random lists are as wrong as it likes. The error that it can cause is
  0.148 ± 0.002 with the multifilter (one point, nearer than the noise lets a split be seen) and 0.303 ± 0.011 with
  trimmed refits, which follow 105 sources that agree without noise (`quiet`) where the multifilter sees that their
  residuals are not those of the others. Spread in seven directions (`ring`) the wrong sources hide from the multifilter
  longer, and trimmed refits do better there, 0.046 ± 0.001 and 0.119 ± 0.003. Least squares on a single source known to
  be genuine is at 0.162 ± 0.008; so is what all this is worth, at the worst distance.
  Also a strong baseline: the same trimmed refits from 16 trusted samples, twice the dimension.
Verdict: partly: the lists hold the right regressor, and the multifilter halves what an adversary can do to trimmed
  refits; but it asks for more samples of a source than they do.
Tuning: the starts and the radius are the defaults of the library, the share of genuine sources is given. A first
  multifilter took the squared clip for the variance of a sample and failed with `ring`, which these seeds showed; what
  is measured here was made after that, with seed 10.
Reference: Das, Jain, Kong & Sen, Efficient list-decodable regression using batches, 2023 (arXiv 2211.12743).
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import compare
from experiments.engine.panels import draw_panels
from experiments.selection._regression_sources import NUM_TRUSTED, Adversary, Problem, Task, imitators, make_problem
from minibatch_jax.selection import list_regressions, multifilter_regressions, soft_filter
from minibatch_jax.selection.list_decodable import RegressionList, batch_gradients, best_of_list, top_direction

TASKS: tuple[Task, ...] = ("clusters", "ten_groups", "line", "bicycles")
ADVERSARIES: tuple[Adversary, ...] = ("side", "ring", "chain", "quiet")
DISTANCES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
FEW_TRUSTED = 4
ENOUGH = 8
"""samples in a batch, from which on the multifilter is run"""
BATCH_SIZES = (1, 4, 8, 16, 24, 32)
"""those that divide the samples of a source"""


@dataclass(frozen=True)
class Config:
    """The share of genuine sources is given to the methods; nothing was tuned."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/list_decodable_regression"
    task: Literal["all", "clusters", "ten_groups", "line", "bicycles", "side", "ring", "chain", "quiet"] = "all"
    arms: tuple[str, ...] = ()
    num_starts: int = 40
    radius: float = 0.1
    """candidates of the list that are nearer than this are one"""
    slack: float = 2.0
    """of the multifilter"""


BETTER, ATTACKED = {"error, n = 8": "lower"}, {"worst error": "lower"}
"""of the numbers that the claim is about"""

Fit = Callable[[Problem, np.ndarray, np.ndarray, int], dict[str, float]]
"""(problem, inputs [M, n, D], targets [M, n], seed) -> metrics"""


def main(config: Config):
    """Fit all arms to batches of every size, and report the errors."""
    records, attacked = {}, {}
    for task in (*TASKS, *ADVERSARIES) if config.task == "all" else (config.task,):
        changed = dataclasses.replace(config, task=task, out=str(Path(config.out) / task))
        if task in ("side", "ring", "chain", "quiet"):
            problem = functools.cache(functools.partial(imitators, task))
            arms = {name: arm_attacked(problem, fit) for name, fit in fits(config).items()}
            attacked[task] = compare(
                changed, arms, xlabel="distance", summary=by_distance, baseline="OLS", better=ATTACKED
            )
        else:
            problem = functools.cache(functools.partial(make_problem, task))
            arms = {name: arm(problem, name, fit) for name, fit in fits(config).items()}
            records[task] = compare(
                changed, arms, xlabel="samples in a batch", summary=by_batch_size, baseline="OLS", better=BETTER
            )
    for made, xlabel, name in ((records, "samples in a batch", "errors"), (attacked, "distance", "attacks")):
        if made:
            draw_panels(made, "error", xlabel, Path(config.out) / f"{name}.png")
    return [record for made in (records | attacked).values() for record in made]


def fits(config: Config) -> dict[str, Fit]:
    """Name -> fit."""
    made: dict[tuple[Any, ...], RegressionList] = {}

    def kept(make):
        """The list of a problem, made once for all arms that use it."""

        def listed(problem, inputs, targets, seed):
            at = make, id(problem), targets.shape[1]
            if at not in made:
                arrays = jnp.asarray(inputs), jnp.asarray(targets)
                made[at] = make(seed, *arrays, float(problem.genuine.mean()))
            return made[at]

        return listed

    listed = kept(lambda *args: candidates(*args, config.num_starts, config.radius))
    filtered_list = kept(lambda *args: filtered_candidates(*args, config.slack))

    def chosen(problem, *batches, make, count):
        best = best_of_list(make(problem, *batches), *(jnp.asarray(part) for part in first(problem.trusted, count)))
        return {"error": float(problem.error(np.asarray(best)))}

    def best_listed(problem, *batches, make):
        found = make(problem, *batches)
        regressors = np.asarray(found.parameters)[np.asarray(found.valid)]
        return {"error": float(problem.error(regressors).min()), "list_length": len(regressors)}

    found: dict[str, Fit] = {
        "OLS": one(lambda problem, x, y: ols(x, y)),
        "Huber": one(lambda problem, x, y: huber(x, y)),
        "soft filter": one(lambda problem, x, y: filtered(x, y, problem.genuine.mean())),
        "OLS, one genuine batch": one_genuine_batch,
    }
    for count, name in ((FEW_TRUSTED, "few"), (NUM_TRUSTED, "all")):
        found[f"OLS, {name} trusted"] = one(lambda problem, x, y, count=count: ols(*first(problem.trusted, count)))
        found[f"trimmed, {name} trusted"] = one(functools.partial(trimmed_from_trusted, count=count))
        found[f"list, {name} trusted"] = functools.partial(chosen, make=listed, count=count)
        found[f"multifilter, {name} trusted"] = functools.partial(chosen, make=filtered_list, count=count)
    return found | {
        "list, best of it": functools.partial(best_listed, make=listed),
        "multifilter, best of it": functools.partial(best_listed, make=filtered_list),
        "random list, best of it": random_list,
        "OLS, genuine sources": one(lambda problem, x, y: ols(*genuine_samples(problem))),
    }


def first(samples: tuple[np.ndarray, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """So many of the trusted samples."""
    return samples[0][:count], samples[1][:count]


def one(regressor: Callable[[Problem, np.ndarray, np.ndarray], np.ndarray]) -> Fit:
    """A fit that gives a single regressor."""
    return lambda problem, x, y, seed: {"error": float(problem.error(regressor(problem, x, y)))}


def arm(problem: Callable[[int], Problem], name: str, fit: Fit) -> Callable[[int], Any]:
    """Metrics of a fit by batch size; all sizes hold the same samples."""
    least = ENOUGH if name.startswith("multifilter") else 1

    def measured(seed):
        found = problem(seed)
        sizes = [n for n in BATCH_SIZES if n >= least and found.targets.shape[1] % n == 0]
        return {n: fit(found, *cut(found, n), seed) for n in sizes}

    return measured


def arm_attacked(problem: Callable[[float, int], Problem], fit: Fit) -> Callable[[int], Any]:
    """Metrics of a fit by the distance that the adversary chooses; a source is one batch."""

    def measured(seed):
        found = {distance: problem(distance, seed) for distance in DISTANCES}
        return {distance: fit(at, at.inputs, at.targets, seed) for distance, at in found.items()}

    return measured


def cut(problem: Problem, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Batches `[M, n, D]` and `[M, n]`: the sources in pieces of n samples."""
    return problem.inputs.reshape(-1, n, problem.inputs.shape[2]), problem.targets.reshape(-1, n)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def candidates(seed, inputs, targets, share, num_starts, radius):
    """The list, of an integer seed."""
    return list_regressions(jax.random.key(seed), inputs, targets, share, num_starts=num_starts, radius=radius)


@functools.partial(jax.jit, static_argnums=(3, 4))
def filtered_candidates(seed, inputs, targets, share, slack):
    """The list of the multifilter, which wants inputs of second moment 1: they are whitened by all samples."""
    flat = inputs.reshape(-1, inputs.shape[2])
    values, vectors = jnp.linalg.eigh(flat.T @ flat / len(flat))
    whiten = vectors / jnp.sqrt(values)[None]
    found = multifilter_regressions(inputs @ whiten, targets, share, slack=slack)
    return found._replace(parameters=found.parameters @ whiten.T)


def random_list(problem: Problem, inputs: np.ndarray, targets: np.ndarray, seed: int) -> dict[str, float]:
    """The best of least squares on random sets of sources, as many of each as are genuine and as the bound allows."""
    share, rng = problem.genuine.mean(), np.random.default_rng(seed)
    count, kept = int(4 / share**2), int(share * len(inputs))
    rows = [rng.choice(len(inputs), kept, replace=False) for _ in range(count)]
    return {"error": float(min(problem.error(ols(inputs[r], targets[r])) for r in rows)), "list_length": count}


def ols(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Least squares over all samples, the shortest solution if there are several."""
    return np.linalg.lstsq(inputs.reshape(-1, inputs.shape[-1]), targets.ravel(), rcond=None)[0]


def huber(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Huber regression over all samples, with the scale estimated."""
    from sklearn.linear_model import HuberRegressor

    model = HuberRegressor(alpha=0, fit_intercept=False, max_iter=1000)
    return model.fit(inputs.reshape(-1, inputs.shape[-1]), targets.ravel()).coef_


def one_genuine_batch(problem: Problem, inputs: np.ndarray, targets: np.ndarray, seed: int) -> dict[str, float]:
    """Mean error of least squares over ten random genuine batches."""
    pieces = np.repeat(problem.genuine, len(inputs) // len(problem.genuine))
    rows = np.random.default_rng(seed).choice(np.flatnonzero(pieces), 10, replace=False)
    return {"error": float(np.mean([problem.error(ols(inputs[i], targets[i])) for i in rows]))}


def trimmed_from_trusted(problem: Problem, inputs: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    """Refits to the share of batches with the least squared error, from least squares on trusted samples on."""
    regressor, kept = ols(*first(problem.trusted, count)), int(problem.genuine.mean() * len(inputs))
    for _ in range(30):
        rows = np.argsort(np.mean((inputs @ regressor - targets) ** 2, axis=1), kind="stable")[:kept]
        regressor = ols(inputs[rows], targets[rows])
    return regressor


def filtered(inputs: np.ndarray, targets: np.ndarray, share: float) -> np.ndarray:
    """One regressor by the paper's filter without its lists: weaken the batches whose gradients are far from the mean,
    until the share of the mass is left."""
    return np.asarray(_filtered(jnp.asarray(inputs), jnp.asarray(targets), float(share)))


@jax.jit
def _filtered(inputs, targets, share):
    def fit(weights):
        weighted = inputs * weights[:, None, None]
        gram = jnp.einsum("mni,mnj->ij", weighted, inputs) + 1e-6 * jnp.eye(inputs.shape[2])
        return jnp.linalg.solve(gram, jnp.einsum("mni,mn->i", weighted, targets))

    def weaken(state):
        count, weights = state
        regressor = fit(weights)
        clip = jnp.median(jnp.abs(inputs @ regressor - targets))
        gradients = batch_gradients(inputs, targets, regressor, clip)
        _, direction = top_direction(gradients, weights)
        distances = (gradients - jnp.average(gradients, axis=0, weights=weights)[None]) @ direction
        return count + 1, soft_filter(weights, distances**2)

    def too_many(state):
        count, weights = state
        return (jnp.sum(weights) > share * len(weights)) & (count < 300)

    return fit(jax.lax.while_loop(too_many, weaken, (0, jnp.ones(len(inputs))))[1])


def genuine_samples(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of the genuine sources."""
    return problem.inputs[problem.genuine], problem.targets[problem.genuine]


def by_distance(records) -> dict[str, float]:
    """The numbers of the table: the error at each distance, and the largest, which the adversary would choose."""
    found = {f"error, distance {r['step']}": r["metrics"]["error"] for r in records}
    lengths = [r["metrics"]["list_length"] for r in records if "list_length" in r["metrics"]]
    return found | {"worst error": max(found.values())} | ({"longest list": max(lengths)} if lengths else {})


def by_batch_size(records) -> dict[str, float]:
    """The numbers of the table: each metric at each batch size."""
    names = records[0]["metrics"]
    return {f"{name}, n = {r['step']}": r["metrics"][name] for name in names for r in records}
