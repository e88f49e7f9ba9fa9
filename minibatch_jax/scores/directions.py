"""How far the gradient of each example points along a direction, without forming the gradients of examples.

A direction in the space of the parameters is, for example, the gradient of the loss on held-out data: a step along the
gradient of an example of large alignment lowers the held-out loss the most.

References:
  Ren et al., Learning to reweight examples for robust deep learning, ICML 2018 (arXiv 1803.09050).
  Pruthi et al., Estimating training data influence by tracing gradient descent, NeurIPS 2020 (arXiv 2002.08484).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax.geometry import product
from minibatch_jax.weights import weight_dtype


def alignment(losses_fn: Callable[[Any, Any], jax.Array], params: Any, batch: Any, direction: Any) -> jax.Array:
    """Return the inner product of each example's gradient with a direction, exactly, by forward-mode differentiation.

    It costs about as much as the gradient of the batch, and forms no gradient of an example.

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
      >>> alignment(losses_fn, jnp.zeros(2), jnp.array([[3.0, 4.0], [0.0, 1.0]]), jnp.array([1.0, 2.0]))
      Array([11.,  2.], dtype=float32)
    """
    structures = jax.tree.structure(params), jax.tree.structure(direction)
    if structures[0] != structures[1]:
        raise ValueError(f"direction has the structure {structures[1]}, wanted that of params, {structures[0]}.")
    for param, leaf in zip(jax.tree.leaves(params), jax.tree.leaves(direction)):
        check_shape("direction", leaf, jnp.shape(param))
        wanted = jnp.result_type(param)
        if jnp.issubdtype(wanted, jnp.floating) and jnp.result_type(leaf) != wanted:
            raise TypeError(f"direction has dtype {jnp.result_type(leaf)}, wanted {wanted}, that of the parameter.")
    losses, slopes = jax.jvp(lambda p: losses_fn(p, batch), (params,), (direction,))
    check_shape("losses", losses, (None,))
    check_floating("losses", losses)
    return slopes.astype(weight_dtype(losses.dtype))


def last_layer_alignment(
    residuals: jax.Array, features: jax.Array, kernel: jax.Array, bias: jax.Array | None = None
) -> jax.Array:
    """Return the inner product of each example's gradient in the last layer with a direction of that layer.

    The gradient in the kernel of a linear layer is the outer product of the features and the gradient in the logits, so
    this is one product of the features with the kernel: far less than a gradient of the whole model.

    Args:
      residuals: `[B, C]`, floating point, gradients in the logits, such as those of `last_layer_gradients`.
      features: `[B, D]`, floating point, inputs of the last layer.
      kernel: `[D, C]`, floating point, the direction in the kernel, such as the gradient of a held-out loss in it.
      bias: `[C]`, floating point, the direction in the bias; none for a layer without one.

    Returns:
      `[B]`, float32 (float64 if an argument is).

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if shapes do not match.

    Examples:
      >>> residuals, features = jnp.array([[-0.5, 0.5]]), jnp.array([[1.0, 2.0, 0.0]])
      >>> last_layer_alignment(residuals, features, jnp.array([[0.0, 1.0], [0.0, 1.0], [9.0, 9.0]]))
      Array([1.5], dtype=float32)
    """
    check_shape("residuals", residuals, (None, None))
    check_shape("features", features, (residuals.shape[0], None))
    check_shape("kernel", kernel, (features.shape[1], residuals.shape[1]))
    given = {"residuals": residuals, "features": features, "kernel": kernel}
    if bias is not None:
        check_shape("bias", bias, residuals.shape[1:])
        given["bias"] = bias
    for name, array in given.items():
        check_floating(name, array)
    dtype = weight_dtype(jnp.result_type(*given.values()))
    along = product(features.astype(dtype), kernel.astype(dtype))
    if bias is not None:
        along += bias.astype(dtype)[None]
    return jnp.sum(residuals.astype(dtype) * along, axis=1)
