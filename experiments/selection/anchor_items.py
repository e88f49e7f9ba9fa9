"""Few test items in place of a thousand, to say how good a new model is: anchors of clusters against random items.

Claim: items at the centers of clusters, each with the mass of its cluster, estimate the score of a new model on all
  items better than random ones, and item response theory does once more; the more items are run, the less is gained.
Data: 95 classifiers of Fashion-MNIST of eight families (softmax regression, two kinds of perceptrons, neighbors,
  centroids, trees, forests, Gaussians), trained on 60 to 2500 images, with accuracies from 0.1 to 0.8. The items are
  1000 test images. Per seed the models of three families are judged, and the record has those of the other five.
  `python -m experiments.datasets fetch fashion_mnist`
Command: `python -m experiments anchor_items`
Minutes: 2 on one CPU core
Expected: mean ± standard error over 5 seeds of the absolute error of the estimated accuracy, by the items run; random
  choices are means of 10 draws

  | error                               | n = 21        | n = 42        | n = 84        | n = 168       |
  |-------------------------------------|---------------|---------------|---------------|---------------|
  | random items                        | 0.080 ± 0.003 | 0.057 ± 0.003 | 0.039 ± 0.001 | 0.025 ± 0.001 |
  | random items of each class          | 0.072 ± 0.003 | 0.048 ± 0.002 | 0.037 ± 0.002 | 0.023 ± 0.001 |
  | random items, predicted             | 0.057 ± 0.004 | 0.043 ± 0.002 | 0.032 ± 0.002 | 0.022 ± 0.002 |
  | anchors of the record               | 0.053 ± 0.005 | 0.041 ± 0.003 | 0.031 ± 0.003 | 0.020 ± 0.003 |
  | anchors of the record, plain mean   | 0.077 ± 0.004 | 0.075 ± 0.011 | 0.072 ± 0.010 | 0.078 ± 0.009 |
  | anchors of item response            | 0.062 ± 0.005 | 0.047 ± 0.003 | 0.028 ± 0.001 | 0.020 ± 0.001 |
  | anchors of item response, predicted | 0.051 ± 0.005 | 0.036 ± 0.003 | 0.027 ± 0.003 | 0.022 ± 0.002 |

  and of the rank correlation of estimated and true accuracies of the models:

  | rank                                | n = 21        | n = 42        | n = 84        | n = 168       |
  |-------------------------------------|---------------|---------------|---------------|---------------|
  | random items                        | 0.798 ± 0.044 | 0.855 ± 0.030 | 0.920 ± 0.018 | 0.963 ± 0.010 |
  | random items of each class          | 0.796 ± 0.044 | 0.887 ± 0.025 | 0.925 ± 0.018 | 0.963 ± 0.010 |
  | random items, predicted             | 0.804 ± 0.046 | 0.877 ± 0.026 | 0.935 ± 0.017 | 0.965 ± 0.009 |
  | anchors of the record               | 0.817 ± 0.056 | 0.894 ± 0.020 | 0.946 ± 0.014 | 0.969 ± 0.007 |
  | anchors of the record, plain mean   | 0.831 ± 0.027 | 0.880 ± 0.019 | 0.946 ± 0.014 | 0.960 ± 0.011 |
  | anchors of item response            | 0.789 ± 0.024 | 0.826 ± 0.067 | 0.932 ± 0.011 | 0.961 ± 0.008 |
  | anchors of item response, predicted | 0.854 ± 0.030 | 0.884 ± 0.044 | 0.951 ± 0.011 | 0.968 ± 0.012 |

  Reproduced: with 42 items the error is 0.0159 ± 0.0055 below that of random ones, seed by seed, and 0.0211 ± 0.0026
  below with the answers to all others predicted; with 168, a sixth of the items, the gains are 0.0046 ± 0.0036 and
  0.0028 ± 0.0023. Two thirds of the gain with 42 need no anchors: random items with predictions are 0.0139 ± 0.0040
  better than without. Against anchors of the record, item response theory with predictions gains 0.005 with 42 items
  and loses 0.002 with 168, both within the errors. Models are hardly ranked better: 0.039 ± 0.020 (anchors of the
  record, 42 items), and nothing from 168 on. The plain mean of anchors is biased, by as much as the error of 21 random
  items, and more items do not help.
Verdict: partly: anchors beat random items while few are run, but so do predictions from random items, and item
  response theory is not better than anchors of the record beyond the errors.
Tuning: five dimensions of the item response theory rather than two, by the error of the prediction with 42 anchors on
  items of the training split and seeds 10 and 11; nothing else.
Reference: Huang et al., MiniLongBench: the low-cost long context understanding benchmark for large language models, ACL
  2025 (arXiv 2505.19959); Polo et al., tinyBenchmarks, ICML 2024 (arXiv 2402.14992).
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
from experiments.selection._model_zoo import FAMILIES, SIZES, model_zoo
from minibatch_jax import selection

DRAWS = 10
CLASSES = 10


@dataclass(frozen=True)
class Config:
    """All arms run as many items on the models to judge."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/anchor_items"
    arms: tuple[str, ...] = ()
    items: int = 1000
    """test images, drawn by the seed"""
    budgets: tuple[int, ...] = (21, 42, 84, 168)
    """items to run"""
    held_out: int = 3
    """families of models to judge, drawn by the seed; the record has the others"""
    dimensions: int = 5
    """of the item response theory"""
    largest_size: int = SIZES[-1]
    """training images of the largest models"""
    validate: bool = False
    """items from the training split: for tuning"""


class Problem(NamedTuple):
    """A record `[M, N]` of some models, what the models to judge score `[J, N]`, and the class of each item `[N]`."""

    record: jax.Array
    judged: np.ndarray
    labels: np.ndarray
    response: selection.ItemResponse


Estimates = Callable[[Problem, int, int], np.ndarray]
"""(problem, budget, seed) -> estimates `[draws, J]` of the mean scores of the models to judge"""


def main(config: Config):
    """Estimate the accuracies of the models of families that are held out."""
    problem = functools.lru_cache(1)(functools.partial(make_problem, config))
    arms: dict[str, Estimates] = {
        "random items": plain_mean(random_items),
        "random items of each class": plain_mean(items_of_each_class),
        "random items, predicted": predicted_mean(random_items),
        "anchors of the record": weighted_mean(anchors_of_record),
        "anchors of the record, plain mean": plain_mean(anchors_of_record),
        "anchors of item response": weighted_mean(anchors_of_response),
        "anchors of item response, predicted": predicted_mean(anchors_of_response),
    }
    measured: Any = {name: functools.partial(measure, config, problem, arm) for name, arm in arms.items()}
    better = {f"{metric}, n = 42": way for metric, way in (("error", "lower"), ("rank", "higher"))}
    return compare(config, measured, xlabel="items run", summary=by_budget, baseline="random items", better=better)


def make_problem(config: Config, seed: int) -> Problem:
    """Draw the items and the families to judge, and fit the item response theory to the record."""
    zoo, rng = model_zoo(config.validate, config.largest_size), np.random.default_rng(seed)
    items = rng.choice(zoo.right.shape[1], config.items, replace=False)
    judged = np.isin(zoo.families, rng.choice(FAMILIES, config.held_out, replace=False))
    right = zoo.right[:, items].astype(np.float32)
    record = jnp.asarray(right[~judged])
    fit = jax.jit(functools.partial(selection.fit_item_response, num_dimensions=config.dimensions))
    return Problem(record, right[judged], zoo.labels[items], fit(seed, record))


Choice = Callable[[Problem, int, int], list[selection.AnchorItems]]
"""(problem, budget, seed) -> choices of items"""


def random_items(problem: Problem, budget: int, seed: int) -> list[selection.AnchorItems]:
    """Draws of items that are equally likely."""
    rng, size = np.random.default_rng([seed, budget]), len(problem.labels)
    return [alike(rng.choice(size, budget, replace=False)) for _ in range(DRAWS)]


def items_of_each_class(problem: Problem, budget: int, seed: int) -> list[selection.AnchorItems]:
    """Draws of as many items of each class, up to one."""
    rng = np.random.default_rng([seed, budget])
    draws = []
    for _ in range(DRAWS):
        order = rng.permutation(len(problem.labels))
        turn = np.concatenate([np.arange((problem.labels == c).sum()) for c in range(CLASSES)])
        by_class = order[np.argsort(problem.labels[order], kind="stable")]
        draws.append(alike(by_class[np.argsort(turn + rng.random(len(turn)) / 2, kind="stable")[:budget]]))
    return draws


def alike(indices: np.ndarray) -> selection.AnchorItems:
    """Items of equal mass."""
    return selection.AnchorItems(jnp.asarray(indices, jnp.int32), jnp.full(len(indices), 1 / len(indices)))


def anchors_of_record(problem: Problem, budget: int, seed: int) -> list[selection.AnchorItems]:
    """Anchors of clusters of items that the models of the record get right alike."""
    return [_anchors(seed, problem.record.T, budget)]


def anchors_of_response(problem: Problem, budget: int, seed: int) -> list[selection.AnchorItems]:
    """Anchors of clusters of items with like discriminations and difficulties."""
    items = problem.response
    return [_anchors(seed, jnp.concatenate([items.discrimination, items.difficulty[:, None]], axis=1), budget)]


_anchors = jax.jit(selection.anchor_items, static_argnums=2)


def plain_mean(choice: Choice) -> Estimates:
    """The mean of the items that are run."""
    return lambda *given: np.stack([given[0].judged[:, np.asarray(a.indices)].mean(1) for a in choice(*given)])


def weighted_mean(choice: Choice) -> Estimates:
    """The mean of the items that are run, by their masses."""

    def estimates(problem, budget, seed):
        chosen = choice(problem, budget, seed)
        return np.stack(
            [selection.anchor_mean(a, jnp.asarray(problem.judged[:, np.asarray(a.indices)])) for a in chosen]
        )

    return estimates


def predicted_mean(choice: Choice) -> Estimates:
    """The mean of the items that are run and of the predictions of all others by item response theory."""

    def estimates(problem, budget, seed):
        chosen = choice(problem, budget, seed)
        scores = [jnp.asarray(problem.judged[:, np.asarray(a.indices)]) for a in chosen]
        return np.stack([_predicted(problem.response, a.indices, s) for a, s in zip(chosen, scores, strict=True)])

    return estimates


@jax.jit
def _predicted(items: Any, indices: jax.Array, scores: jax.Array) -> jax.Array:
    return jax.lax.map(lambda one: selection.response_mean(items, indices, one), scores)


def measure(
    config: Config, problem: Callable[[int], Problem], arm: Estimates, seed: int
) -> dict[int, dict[str, float]]:
    """Mean absolute error of the estimated accuracies, and their rank correlation with the true ones, by the budget."""
    found = problem(seed)
    truth, metrics = found.judged.mean(1), {}
    for budget in config.budgets:
        estimates = arm(found, budget, seed)
        ranks = [float(np.asarray(spearmanr(one, truth))[0]) for one in estimates]
        metrics[budget] = {
            "error": float(np.abs(estimates - truth[None]).mean()),
            "bias": float((estimates - truth[None]).mean()),
            "rank": float(np.mean(ranks)),
        }
    return metrics


def by_budget(records) -> dict[str, float]:
    """The numbers of the table: each metric at each budget."""
    return {f"{name}, n = {r['step']}": value for r in records for name, value in r["metrics"].items()}
