"""The query strategies of the experiments of active learning, by name, as transformations of the weights of a pool."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax import selection
from minibatch_jax.selection.uncertainty import expected_gradient_length
from minibatch_jax.weights import KeyState

Signals = dict[str, jax.Array]
Transformation = optax.GradientTransformationExtraArgs


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


def far_from_labels(budget: Budget) -> Transformation:
    """Core-set: each row is the one farthest from those labeled or chosen before, by the angle of the features."""

    def choose(key, free, signals):
        chosen = selection.k_center(signals["features"], budget.k, metric="cosine", chosen=~free).indices
        return jnp.zeros(free.shape, bool).at[chosen].set(True, mode="drop") & free

    return by_mask(choose)


def contrastive(signals: Signals) -> jax.Array:
    """Rows predicted unlike the labeled rows near them."""
    known = signals["reference_labels"] >= 0
    references = signals["reference_logits"], signals["reference_features"]
    return selection.contrastive_scores(signals["logits"], signals["features"], *references, reference_mask=known)


def after(mask: Callable[[Budget], Transformation]) -> Callable[[Budget], Transformation]:
    """The smallest margins of the rows that a mask leaves."""
    return lambda budget: optax.chain(mask(budget), selection.keep_uncertain(budget.k, key=1))


STRATEGIES: dict[str, Callable[[Budget], Transformation]] = {
    "random": lambda b: selection.keep_random(b.k, key=0),
    "margin": lambda b: selection.keep_uncertain(b.k, key=0),
    "least confidence": lambda b: selection.keep_uncertain(b.k, key=0, score="least_confidence"),
    "entropy": lambda b: selection.keep_uncertain(b.k, key=0, score="entropy"),
    "expected gradient": scored(lambda s: expected_gradient_length(s["logits"], s["features"])),
    "BALD": lambda b: selection.keep_disputed(b.k, key=0),
    "votes of a committee": lambda b: selection.keep_disputed(b.k, key=0, score="votes"),
    "BatchBALD": lambda b: selection.keep_by_batch_bald(b.k, key=0, num_samples=128),
    "contrastive (CAL)": scored(contrastive),
    "BADGE": lambda b: selection.keep_by_badge(b.k, key=0),
    "core-set": far_from_labels,
    "light-weight core-set": lambda b: selection.keep_lightweight_coreset(b.k, key=0, weighting="own"),
    "k-means": lambda b: selection.keep_by_k_means(b.k, key=0),
    "margin near labels (SEALS)": after(lambda b: selection.keep_near_labeled(10)),
    "margin near anchors (AnchorAL)": after(lambda b: selection.keep_near_anchors(500, 0, num_classes=b.classes)),
    "margin of balanced classes": lambda b: selection.keep_by_class_balance(b.k, key=0),
}
OF_COMMITTEES = {"BALD", "BatchBALD", "votes of a committee"}
"""strategies that read `committee_logits`"""


def compiled(strategy: Transformation) -> Transformation:
    """The same strategy, compiled once for pools of one shape."""
    return optax.GradientTransformationExtraArgs(*map(jax.jit, strategy))
