"""How large the gradient of each example is: exact norms without the gradients, and the general way with them.

Backpropagation gives every layer `delta`, the gradient in its outputs. The gradient in the parameters follows from the
inputs and `delta`; for a dense layer it is an outer product, and its norm is the product of two norms. A *tap* is a
vector `[B]` of zeros that passes through all layers. The gradient in the tap is the sum of the squared norms of the
layers, so no gradient in a parameter is formed.

References:
  Goodfellow, Efficient per-example gradient computations, 2015 (arXiv 1510.01799).
  Li et al., Large language models can be strong differentially private learners, ICLR 2022 (arXiv 2110.05679).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_shape
from minibatch_jax._loops import bind, given, map_rows
from minibatch_jax.boundaries.chosen_rows import check_leading_axis
from minibatch_jax.scores._rows import num_rows, sum_of_squares
from minibatch_jax.weights import weight_dtype

CHUNK = 16


def gradient_norms(
    loss_fn: Callable[[Any, Any], jax.Array], params: Any, batch: Any, *, block_size: int = CHUNK
) -> jax.Array:
    """Return the norm of the gradient of each example's loss by forming the gradients: any network, but slow.

    This forms `block_size` gradients at a time, each as large as the parameters. For dense layers
    `ghost_gradient_norms` and `linen_gradient_norms` give the same numbers many times faster.

    Args:
      loss_fn: `loss_fn(params, batch) -> losses [B]`, where a loss depends on its own row alone.
      params: pytree of arrays.
      batch: pytree of arrays `[B, ...]`.
      block_size: number of gradients to form at a time, at least 1, static.

    Returns:
      `[B]`, float32 (float64 with x64), at least 0; not finite where the gradient of that example is not.

    Raises:
      TypeError: if the losses are not floating point or `block_size` is not a static int.
      ValueError: if leading axes differ, the losses are not `[B]` or `block_size` is below 1.

    Examples:
      >>> loss_fn = lambda w, batch: batch["x"] @ w
      >>> gradient_norms(loss_fn, jnp.zeros(2), {"x": jnp.array([[3.0, 4.0], [0.0, 1.0]])}).tolist()
      [5.0, 1.0]
    """
    check_count("block_size", block_size)
    batch = jax.tree.map(jnp.asarray, batch)
    rows = num_rows(batch)
    return map_rows(bind(given(_norm_of_row, loss_fn), params), batch, block_size=min(block_size, rows))


def _norm_of_row(loss_fn, params, row):
    gradient = jax.grad(lambda p: _sum_of_losses(loss_fn(p, jax.tree.map(lambda x: x[None], row)), 1))(params)
    return jnp.sqrt(sum_of_squares(gradient))


def ghost_gradient_norms(loss_fn: Callable[[jax.Array], jax.Array], batch_size: int) -> jax.Array:
    """Return the norm of the gradient of each example's loss, exactly, in one forward and part of one backward pass.

    Every layer with parameters must be tapped once, by `tap_dense`, `tap_embedding` or `tap_layer`; a layer without a
    tap counts as constant. In a flax nnx module or plain JAX write `y = tap_dense(tap, x, layer(x))`. For flax linen
    modules use `linen_gradient_norms`, which needs no taps. If a layer is used twice, as with tied weights, use
    `gradient_norms`: the gradient of such a layer is a sum, and its norm does not follow from the norms of the terms.

    Args:
      loss_fn: `loss_fn(tap [B]) -> losses [B]`, where a loss depends on its own row alone.
      batch_size: B, static.

    Returns:
      `[B]`, float32 (float64 with x64), at least 0; not finite where the gradient of that example is not.

    Raises:
      TypeError: if the losses are not floating point or `batch_size` is not a static int.
      ValueError: if the losses are not `[B]` or `batch_size` is below 1.

    References:
      Goodfellow, Efficient per-example gradient computations, 2015 (arXiv 1510.01799).

    Examples:
      >>> x, w = jnp.array([[3.0, 4.0], [0.0, 1.0]]), jnp.zeros((2, 1))
      >>> ghost_gradient_norms(lambda tap: tap_dense(tap, x, x @ w, bias=False)[:, 0], 2).tolist()
      [5.0, 1.0]
    """
    check_count("batch_size", batch_size)
    tap = jnp.zeros(batch_size)
    return jnp.sqrt(jax.grad(lambda tap: _sum_of_losses(loss_fn(tap), batch_size))(tap))


def tap_dense(tap: jax.Array, inputs: jax.Array, outputs: jax.Array, *, bias: bool = True) -> jax.Array:
    """Count the parameters of `outputs = inputs @ kernel + bias` in the gradient norms.

    Args:
      tap: `[B]`, as given by `ghost_gradient_norms`.
      inputs: `[B, ..., M]`, floating point; all positions along the axes between, such as time, share the parameters.
      outputs: `[B, ..., N]`, floating point, right after the layer, before the activation function.
      bias: whether the layer has a bias.

    Returns:
      The outputs. Continue with the returned array, not with the argument.

    Raises:
      TypeError: if inputs or outputs are not floating point.
      ValueError: if shapes do not match.

    Examples:
      >>> tap_dense(jnp.zeros(2), jnp.ones((2, 3)), jnp.ones((2, 1))).tolist()
      [[1.0], [1.0]]
    """
    check_floating("inputs", inputs)
    check_floating("outputs", outputs)
    check_shape("tap", tap, (None,))
    check_shape("outputs", outputs, (tap.shape[0], *inputs.shape[1:-1], None))
    check_shape("inputs", inputs, (tap.shape[0], *outputs.shape[1:-1], None))
    return _tap_outputs(functools.partial(_dense_squares, bias=bias), tap, inputs, outputs)


def tap_embedding(tap: jax.Array, ids: jax.Array, outputs: jax.Array) -> jax.Array:
    """Count the table of `outputs = table[ids]` in the gradient norms.

    Args:
      tap: `[B]`, as given by `ghost_gradient_norms`.
      ids: `[B, ...]`, integer, rows of the table.
      outputs: `[B, ..., N]`, floating point, right after the lookup.

    Returns:
      The outputs. Continue with the returned array, not with the argument.

    Raises:
      TypeError: if the ids are not integer or the outputs not floating point.
      ValueError: if shapes do not match.

    Examples:
      >>> tap_embedding(jnp.zeros(2), jnp.array([0, 2]), jnp.ones((2, 1))).tolist()
      [[1.0], [1.0]]
    """
    check_integer("ids", ids)
    check_floating("outputs", outputs)
    check_shape("tap", tap, (None,))
    check_shape("outputs", outputs, (tap.shape[0], *ids.shape[1:], None))
    return _tap_outputs(_embedding_squares, tap, ids, outputs)


def tap_layer(
    tap: jax.Array, apply: Callable[[Any, jax.Array], jax.Array], params: Any, inputs: jax.Array, outputs: jax.Array
) -> jax.Array:
    """Count the parameters of any layer `outputs = apply(params, inputs)` in the gradient norms.

    Use this for convolutions, normalization of single examples and the like. It forms the gradient in the parameters of
    this layer for 16 examples at a time.

    Args:
      tap: `[B]`, as given by `ghost_gradient_norms`.
      apply: `apply(params, inputs) -> outputs`, called with one example `[1, ...]`; it must not close over traced
        values.
      params: pytree of arrays, the parameters of the layer.
      inputs: `[B, ...]`.
      outputs: `[B, ...]`, floating point, right after the layer.

    Returns:
      The outputs. Continue with the returned array, not with the argument.

    Raises:
      TypeError: if the outputs are not floating point.
      ValueError: if leading axes differ.

    Examples:
      >>> scale = lambda s, x: s[None] * x
      >>> x, s = jnp.array([[3.0, 4.0], [0.0, 1.0]]), jnp.ones(2)
      >>> loss_fn = lambda tap: jnp.sum(tap_layer(tap, scale, s, x, scale(s, x)), 1)
      >>> ghost_gradient_norms(loss_fn, 2).tolist()
      [5.0, 1.0]
    """
    check_floating("outputs", outputs)
    check_shape("tap", tap, (None,))
    check_leading_axis("inputs", inputs, tap.shape[0])
    check_leading_axis("outputs", outputs, tap.shape[0])
    return _tap_outputs(functools.partial(_layer_squares, apply), tap, (params, inputs), outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tap_outputs(squares: Callable[[Any, jax.Array], jax.Array], tap: jax.Array, inputs: Any, outputs: jax.Array):
    """Return the outputs. In the backward pass, `squares(inputs, delta) [B]` becomes the gradient in the tap."""
    del squares, tap, inputs
    return outputs


def _tap_forward(squares, tap, inputs, outputs):
    del squares
    return outputs, (inputs, jnp.zeros((), tap.dtype))


def _tap_backward(squares, residuals, deltas):
    inputs, like = residuals
    return squares(inputs, deltas).astype(like.dtype), None, deltas


_tap_outputs.defvjp(_tap_forward, _tap_backward)


def _sum_of_losses(losses: jax.Array, rows: int) -> jax.Array:
    check_shape("losses", losses, (rows,))
    check_floating("losses", losses)
    return jnp.sum(losses)


def _dense_squares(inputs: jax.Array, deltas: jax.Array, *, bias: bool) -> jax.Array:
    """Return |a^T d|^2 of each example, by inner products of positions if they are fewer than the kernel's entries."""
    a, d = _positions(inputs), _positions(deltas)
    (_, steps, m), n = a.shape, d.shape[2]
    if steps == 1:
        kernel = jnp.sum(a**2, (1, 2)) * jnp.sum(d**2, (1, 2))
    elif 2 * steps**2 <= m * n:
        kernel = jnp.sum(jnp.einsum("bsm,btm->bst", a, a) * jnp.einsum("bsn,btn->bst", d, d), (1, 2))
    else:
        kernel = map_rows(_square_of_product, (a, d), block_size=min(CHUNK, a.shape[0]))
    return kernel + jnp.sum(jnp.sum(d, 1) ** 2, 1) if bias else kernel


def _square_of_product(positions: tuple[jax.Array, jax.Array]) -> jax.Array:
    inputs, deltas = positions
    return jnp.sum((inputs.T @ deltas) ** 2)


def _layer_squares(apply: Callable[[Any, jax.Array], jax.Array], residuals: Any, deltas: jax.Array) -> jax.Array:
    """Return the squared norm of the gradient in the parameters of any layer, for each example."""
    params, inputs = residuals
    one = bind(given(_squares_of_row, apply), params)
    return map_rows(one, (inputs, deltas), block_size=min(CHUNK, deltas.shape[0]))


def _squares_of_row(apply, params, row):
    x, delta = row
    _, vjp = jax.vjp(lambda p: apply(p, x[None]), params)
    return sum_of_squares(vjp(delta[None]))


def _embedding_squares(ids: jax.Array, deltas: jax.Array) -> jax.Array:
    """Return the sum of the inner products of deltas over all pairs of positions with equal ids."""
    d, ids = _positions(deltas), ids.reshape(ids.shape[0], -1)
    same = ids[:, :, None] == ids[:, None, :]
    return jnp.sum(jnp.where(same, jnp.einsum("bsn,btn->bst", d, d), 0), (1, 2))


def _positions(x: jax.Array) -> jax.Array:
    """Return `[B, ..., D]` as `[B, T, D]`, in the dtype to compute in."""
    return x.astype(weight_dtype(x.dtype)).reshape(x.shape[0], -1, x.shape[-1])
