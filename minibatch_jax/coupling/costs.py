"""What it costs to pair a source with a target: `[B0, B1]` from two batches.

An offset that all items share costs no accuracy: both batches are first shifted by one common center.
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating
from minibatch_jax.geometry import cosines, root, squared_distances
from minibatch_jax.weights import weight_dtype


def squared_euclidean_cost(x0: jax.Array, x1: jax.Array) -> jax.Array:
    """Return the squared Euclidean distance of every source to every target.

    A row with a NaN or infinity costs NaN with every partner, and couplings never use such a pair. The other rows keep
    their costs.

    Args:
      x0: `[B0, ...]`, floating point; all axes but the first are flattened.
      x1: `[B1, ...]`, floating point, with the shape of `x0` after the first axis.

    Returns:
      `[B0, B1]`, float32 (float64 if the batches are), at least 0.

    Raises:
      TypeError: if a batch is not floating point.
      ValueError: if a batch is empty, or the items of the batches differ in shape.

    Examples:
      >>> squared_euclidean_cost(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
      [[25.0, 1.0]]
    """
    return squared_distances(*_flat(x0, x1))


def euclidean_cost(x0: jax.Array, x1: jax.Array) -> jax.Array:
    """Return the Euclidean distance of every source to every target. Its gradient at distance 0 is 0.

    A row with a NaN or infinity costs NaN with every partner, and couplings never use such a pair.

    Args:
      x0: `[B0, ...]`, floating point; all axes but the first are flattened.
      x1: `[B1, ...]`, floating point, with the shape of `x0` after the first axis.

    Returns:
      `[B0, B1]`, float32 (float64 if the batches are), at least 0.

    Raises:
      TypeError: if a batch is not floating point.
      ValueError: if a batch is empty, or the items of the batches differ in shape.

    Examples:
      >>> euclidean_cost(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
      [[5.0, 1.0]]
    """
    return root(squared_euclidean_cost(x0, x1))


def cosine_cost(x0: jax.Array, x1: jax.Array) -> jax.Array:
    """Return one minus the cosine of the angle between every source and every target.

    An item of length 0 costs 1 with every partner. A row with a NaN or infinity costs NaN with every partner, and
    couplings never use such a pair.

    Args:
      x0: `[B0, ...]`, floating point; all axes but the first are flattened.
      x1: `[B1, ...]`, floating point, with the shape of `x0` after the first axis.

    Returns:
      `[B0, B1]`, float32 (float64 if the batches are), in [0, 2].

    Raises:
      TypeError: if a batch is not floating point.
      ValueError: if a batch is empty, or the items of the batches differ in shape.

    Examples:
      >>> cosine_cost(jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 0.0], [0.0, 3.0]])).tolist()
      [[0.0, 1.0]]
    """
    cost = 1 - cosines(*_flat(x0, x1))
    return cost - jax.lax.stop_gradient(cost - jnp.clip(cost, 0, 2))  # beyond [0, 2] by rounding only


def _flat(x0: jax.Array, x1: jax.Array) -> tuple[jax.Array, jax.Array]:
    check_floating("x0", x0)
    check_floating("x1", x1)
    if x0.ndim == 0 or x1.ndim == 0 or x0.shape[1:] != x1.shape[1:]:
        raise ValueError(f"x1 has shape {list(x1.shape)}, wanted [B1, {', '.join(map(str, x0.shape[1:]))}] as x0 has.")
    if min(x0.size, x1.size) == 0:
        raise ValueError(f"x0 and x1 have shapes {list(x0.shape)} and {list(x1.shape)}, wanted at least one item each.")
    dtype = weight_dtype(jnp.promote_types(x0.dtype, x1.dtype))
    return x0.reshape(x0.shape[0], -1).astype(dtype), x1.reshape(x1.shape[0], -1).astype(dtype)
