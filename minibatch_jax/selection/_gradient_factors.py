"""Gradients of the last layer as outer products of two short rows, and the distances of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax.geometry import measurable_rows
from minibatch_jax.selection.uncertainty import without_top
from minibatch_jax.weights import weight_dtype


class GradientFactors(NamedTuple):
    """Gradients `residuals[i] (x) inputs[i]` of N examples.

    Attributes:
      residuals: `[N, C]`.
      inputs: `[N, D]`.
      squares: `[N]`, their squared lengths.
    """

    residuals: jax.Array
    inputs: jax.Array
    squares: jax.Array


def gradient_factors(
    logits: jax.Array, features: jax.Array, where: jax.Array | None = None
) -> tuple[GradientFactors, jax.Array]:
    """Return the gradients in a last layer, each for its likeliest label, and which examples have one.

    Args:
      logits: `[N, C]`, floating point.
      features: `[N, D]`, floating point, inputs of the layer.
      where: `[N]` bool, which examples exist; all by default.

    Returns:
      The factors, 0 for examples without a gradient, and `[N]` bool: whether the softmax is finite and the features can
      be measured.
    """
    probabilities = jax.nn.softmax(logits.astype(weight_dtype(logits.dtype)), axis=1)
    inputs, free = measurable_rows(features)
    free &= jnp.all(jnp.isfinite(probabilities), axis=1)
    if where is not None:
        free &= where
    rest = without_top(jnp.where(free[:, None], probabilities, 0))
    residuals = jnp.where(rest == probabilities, rest, -jnp.sum(rest, axis=1, keepdims=True))
    dtype = jnp.promote_types(residuals.dtype, inputs.dtype)
    residuals, inputs = residuals.astype(dtype), jnp.where(free[:, None], inputs, 0).astype(dtype)
    squares = jnp.sum(residuals**2, axis=1) * jnp.sum(inputs**2, axis=1)
    return GradientFactors(residuals, inputs, squares), free


def squared_distances_to(factors: GradientFactors, j: jax.Array) -> jax.Array:
    """Return the squared distance `[N]` of each gradient to that of example j."""
    inner = jnp.sum(factors.residuals * factors.residuals[j][None], axis=1)
    inner *= jnp.sum(factors.inputs * factors.inputs[j][None], axis=1)
    return without_rounding(factors.squares, factors.squares[j], inner)


def without_rounding(squares: jax.Array, others: jax.Array, inner: jax.Array) -> jax.Array:
    """Return squared distances from squared lengths and inner products, 0 where rounding may be all of it."""
    lengths = squares + others
    squared = lengths - 2 * inner
    return jnp.where(squared <= 8 * jnp.finfo(squared.dtype).eps * lengths, 0, squared)
