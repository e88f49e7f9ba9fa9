"""From functions of distances and masks to transformations of weights `[A, M]`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax.weights import weight_dtype, weight_transformation


def mine_by_masks(
    masks: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation that keeps the pairs of either mask of `masks(distances, positives, negatives)`."""

    def update(weights, state, params=None, *, distances, positives, negatives, **extra_args):
        kept_positives, kept_negatives = masks(*pairs_of_weights(weights, distances, positives, negatives))
        return jnp.where(kept_positives | kept_negatives, weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def mine_by_weights(
    factors: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> optax.GradientTransformationExtraArgs:
    """Return the transformation that multiplies the weights by `factors(distances, positives, negatives)`."""

    def update(weights, state, params=None, *, distances, positives, negatives, **extra_args):
        return scaled(weights, factors(*pairs_of_weights(weights, distances, positives, negatives))), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def pairs_of_weights(
    weights: jax.Array, distances: jax.Array, positives: jax.Array, negatives: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the distances in float32 at least, and the masks of usable positives and negatives.

    A pair is usable if its weight is not 0 and its distance is finite.
    """
    check_shape("weights", weights, (None, None))
    check_shape("distances", distances, weights.shape)
    check_floating("distances", distances)
    usable = (weights != 0) & jnp.isfinite(distances)
    distances = jnp.where(usable, distances, 0).astype(weight_dtype(distances.dtype))
    return distances, positives & usable, negatives & usable


def scaled(weights: jax.Array, factors: jax.Array) -> jax.Array:
    """Return weights * factors in the dtype of the weights, multiplied in float32 at least."""
    dtype = weight_dtype(weights.dtype)
    return (weights.astype(dtype) * factors.astype(dtype)).astype(weights.dtype)
