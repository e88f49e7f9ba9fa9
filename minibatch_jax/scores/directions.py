"""How far the gradient of each example points along a direction, from one forward pass and no gradient.

A direction in the space of the parameters is, for example, the gradient of the loss on held-out data: a step along the
gradient of an example of large alignment lowers the held-out loss the most.
"""

from collections.abc import Callable
from typing import Any

import jax

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax.weights import weight_dtype


def gradient_alignments(
    losses_fn: Callable[[Any, Any], jax.Array], params: Any, batch: Any, direction: Any
) -> jax.Array:
    """Return the inner product of each example's gradient with a direction, exactly, by forward-mode differentiation.

    It costs about two forward passes and forms no gradient of an example.

    Args:
      losses_fn: `losses_fn(params, batch) -> losses [B]`.
      params: pytree of arrays, floating point.
      batch: pytree of arrays `[B, ...]`.
      direction: pytree like `params`, with the same shapes and dtypes, such as the gradient of a held-out loss.

    Returns:
      `[B]`, the derivative of each loss along the direction, float32 (float64 if the losses are). Divide by
      `gradient_norms` and by the norm of the direction for cosines.

    Raises:
      TypeError: if the losses are not floating point, or the direction has another dtype than the parameters.
      ValueError: if the losses are not `[B]`, or the direction has another structure or shape than the parameters.

    Examples:
      >>> losses_fn = lambda w, batch: batch @ w
      >>> gradient_alignments(losses_fn, jnp.zeros(2), jnp.array([[3.0, 4.0], [0.0, 1.0]]), jnp.array([1.0, 2.0]))
      Array([11.,  2.], dtype=float32)
    """
    structures = jax.tree.structure(params), jax.tree.structure(direction)
    if structures[0] != structures[1]:
        raise ValueError(f"direction has the structure {structures[1]}, wanted that of params, {structures[0]}.")
    losses, slopes = jax.jvp(lambda p: losses_fn(p, batch), (params,), (direction,))
    check_shape("losses", losses, (None,))
    check_floating("losses", losses)
    return slopes.astype(weight_dtype(losses.dtype))
