"""The query strategies of the experiments of active learning, by name, as transformations of the weights of a pool."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import selection
from minibatch_jax.pool import label_in_rounds
from minibatch_jax.weights import KeyState

Signals = dict[str, jax.Array]
Transformation = optax.GradientTransformationExtraArgs


RADIUS = 0.8
"""of ProbCover, between rows of unit length"""


class Budget(NamedTuple):
    """k rows of a pool are chosen in a round; the pool has `classes` classes."""

    k: int
    classes: int


def scored(score: Callable[[Signals], jax.Array]) -> Callable[[Budget], Transformation]:
    """Keep the k highest scores."""
    return lambda budget: by_mask(
        lambda key, free, signals: selection.topk_mask(score(signals), budget.k, where=free, key=key)
    )


def by_mask(choose: Callable[[jax.Array, jax.Array, Signals], jax.Array]) -> Transformation:
    """Keep the rows of `choose(key, free, signals)`, a mask `[N]`."""

    def update(updates, state, params=None, **signals):
        next_key, key = jax.random.split(state.rng_key)
        return jnp.where(choose(key, updates != 0, signals), updates, 0), KeyState(next_key)

    init: Any = lambda weights: KeyState(jax.random.key(0))  # noqa: E731
    return optax.GradientTransformationExtraArgs(init, update)


def after(mask: Callable[[Budget], Transformation]) -> Callable[[Budget], Transformation]:
    """The smallest margins of the rows that a mask leaves."""
    return lambda budget: optax.chain(mask(budget), selection.keep_uncertain(budget.k, key=1))


STRATEGIES: dict[str, Callable[[Budget], Transformation]] = {
    "random": lambda b: selection.keep_random(b.k, key=0),
    "margin": lambda b: selection.keep_uncertain(b.k, key=0),
    "least confidence": lambda b: selection.keep_uncertain(b.k, key=0, score="least_confidence"),
    "entropy": lambda b: selection.keep_uncertain(b.k, key=0, score="entropy"),
    "expected gradient": scored(lambda s: selection.expected_gradient_length(s["logits"], s["features"])),
    "BALD": lambda b: selection.keep_disputed(b.k, key=0),
    "votes of a committee": lambda b: selection.keep_disputed(b.k, key=0, score="votes"),
    "BatchBALD": lambda b: selection.keep_by_batch_bald(b.k, key=0, num_samples=128),
    "contrastive (CAL)": lambda b: selection.keep_by_contrast(b.k, key=0),
    "BADGE": lambda b: selection.keep_by_badge(b.k, key=0),
    "core-set": lambda b: selection.keep_new_centers(b.k, metric="cosine"),
    "light-weight core-set": lambda b: selection.keep_lightweight_coreset(b.k, key=0, weighting="own"),
    "k-means": lambda b: selection.keep_by_k_means(b.k, key=0),
    "TypiClust": lambda b: selection.keep_by_typi_clust(b.k, 200, key=0),
    "ProbCover": lambda b: selection.keep_by_prob_cover(b.k, RADIUS, key=0),
    "discriminative": lambda b: selection.keep_by_discrimination(b.k, key=0),
    "margin near labels (SEALS)": after(lambda b: selection.keep_near_labeled(10)),
    "margin near anchors (AnchorAL)": after(lambda b: selection.keep_near_anchors(500, 0, num_classes=b.classes)),
    "margin of balanced classes": lambda b: selection.keep_by_class_balance(b.k, key=0),
}
OF_COMMITTEES = {"BALD", "BatchBALD", "votes of a committee"}
"""strategies that read `committee_logits`"""


def compiled(strategy: Transformation) -> Transformation:
    """The same strategy, compiled once for pools of one shape."""
    return optax.GradientTransformationExtraArgs(*map(jax.jit, strategy))


def label_pool(config: Any, name: str, fit: Callable[[np.ndarray, int], Signals], pool: Any, seed: int) -> None:
    """Train, choose and ask until all rounds are over, and train once more.

    Args:
      config: with `labels`, `rounds` and `first`.
      name: of the strategy.
      fit: `fit(labels, number)` trains in a round, on the rows whose label is not negative, and gives the signals.
      pool: with `label` `[N]`, the right ones, and the number of `classes`.
      seed: of the first labels.
    """
    strategy = strategy_of(name, config.labels, pool.classes)
    options = {"num_classes": pool.classes, "num_rounds": config.rounds, "num_first": config.first}
    found = label_in_rounds(
        fit, strategy, lambda rows: pool.label[rows], len(pool.label), seed=seed, progress=False, **options
    )
    fit(found.labels, config.rounds + 1)


@functools.cache
def strategy_of(name: str, labels: int, classes: int) -> Transformation:
    """A strategy, compiled."""
    return compiled(STRATEGIES[name](Budget(labels, classes)))
