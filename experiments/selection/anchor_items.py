"""Few test items in place of thousands, to say how good a new model is: anchors against random items."""

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
    """AnchorItems of items that the models of the record get right alike."""
    return [_anchors(seed, problem.record.T, budget)]


def anchors_of_response(problem: Problem, budget: int, seed: int) -> list[selection.AnchorItems]:
    """AnchorItems of items with like discriminations and difficulties."""
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
