"""How well numbers order others: Spearman's rank correlation, for each of many columns."""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax._vector import doubled_ranks, nonzero
from minibatch_jax.weights import weight_dtype


def rank_correlations(predicted: jax.Array, actual: jax.Array) -> jax.Array:
    """Return Spearman's rank correlation of each column; equal values share the mean of their ranks.

    Args:
      predicted: `[M]` or `[M, T]`, floating point.
      actual: of the same shape, floating point. A pair with a value that is not finite is left out of its column.

    Returns:
      `[]` or `[T]`, float32 (float64 if `actual` is); 0 where one of both is constant, as it orders nothing.

    Raises:
      TypeError: if one is not floating point.
      ValueError: if shapes do not match.

    Examples:
      >>> predicted, actual = jnp.array([[1.0, 5.0], [9.0, 5.0]]), jnp.array([[0.1, 0.1], [0.2, 0.2]])
      >>> rank_correlations(predicted, actual)
      Array([1., 0.], dtype=float32)
    """
    check_shape("predicted", predicted, (None, None) if jnp.ndim(predicted) == 2 else (None,))
    check_shape("actual", actual, predicted.shape)
    check_floating("predicted", predicted)
    check_floating("actual", actual)
    dtype = weight_dtype(actual.dtype)
    if predicted.ndim == 1:
        return _correlation(predicted, actual).astype(dtype)
    return jax.vmap(_correlation, in_axes=1)(predicted, actual).astype(dtype)


def _correlation(predicted: jax.Array, actual: jax.Array) -> jax.Array:
    counts = jnp.isfinite(predicted) & jnp.isfinite(actual)
    first, second = _centered_ranks(predicted, counts), _centered_ranks(actual, counts)
    norms = jnp.sum(first**2) * jnp.sum(second**2)
    return jnp.sum(first * second) / nonzero(jnp.sqrt(norms))


def _centered_ranks(values: jax.Array, counts: jax.Array) -> jax.Array:
    """Mean ranks less their mean, divided by the number of values so that their squares stay in range."""
    values = jnp.where(counts, values, jnp.inf)
    number = jnp.sum(counts, dtype=jnp.int32)
    doubled = (doubled_ranks(values) - number).astype(jnp.result_type(float))  # whole numbers first: exact
    return jnp.where(counts, doubled / jnp.maximum(number, 1).astype(doubled.dtype), 0)
