"""Boundary from weights to a gradient in blocks: micro-batches that need the memory of one block."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_shape
from minibatch_jax.boundaries._engine import Step
from minibatch_jax.boundaries._items import Items, as_weights
from minibatch_jax.boundaries._models import split_model


def accumulate(
    loss_fn: Callable[[Any, Any], jax.Array], weights: jax.Array, micro_batches: int
) -> Callable[[Any, Any], tuple[jax.Array, Any]]:
    """Make a function that returns the value and gradient of the sum of weight x loss, a block of rows at a time.

    This is what `value_and_grad(micro_batches=m)` does once it has chosen the weights. A row of weight 0 does not reach
    the gradient, and a row whose loss is not finite counts as one of weight 0.

    Args:
      loss_fn: `loss_fn(params, batch) -> losses [b]` of any number of rows.
      weights: `[B]`, at least 0; they are not normalized.
      micro_batches: number of equal blocks, static; it divides B.

    Returns:
      `fn(params, batch) -> (value, grads)`, where the batch has B rows; the value is `[]`, float32 (float64 with x64).

    Raises:
      TypeError: if `micro_batches` is not a static int or losses are not floating point.
      ValueError: if the weights are not a vector, leading axes differ, or `micro_batches` does not divide B.

    Examples:
      >>> loss_fn = lambda w, x: (w - x) ** 2
      >>> value, grad = accumulate(loss_fn, jnp.array([0.5, 0.5, 0.0, 0.0]), 2)(0.0, jnp.arange(4.0))
      >>> float(value), float(grad)
      (0.5, -1.0)
    """
    check_shape("weights", weights, (None,))
    check_count("micro_batches", micro_batches)

    def fn(params, batch):
        model = split_model(params, None)
        step = Step(loss_fn, Items("losses", None, None), model)
        batch = jax.tree.map(jnp.asarray, batch)
        passed = step.differentiate_blocks(batch, as_weights(weights), (model.rest, None), micro_batches, recheck=True)
        model.write(passed.carried[0])
        return passed.value, model.gradient(passed.grads)

    return fn
