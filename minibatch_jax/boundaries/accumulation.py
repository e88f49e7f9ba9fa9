"""Boundary from weights to a gradient in blocks: micro-batches that need the memory of one block.

A mean over a batch is one sum divided by one sum of weights. The mean of the means of micro-batches, which
`optax.MultiSteps` and `AccumulationType.MEAN` compute, is another number wherever micro-batches weigh differently:
sequences of different lengths, padding, selections.

Method: gradient accumulation with weights
Paper: 1706.02677
Experiment: speed accumulation
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count
from minibatch_jax.boundaries._engine import Step, wide_dtype, zero_unless
from minibatch_jax.boundaries._items import Items, as_weights
from minibatch_jax.boundaries._models import split_model
from minibatch_jax.boundaries.chosen_rows import check_leading_axis
from minibatch_jax.devices import bound_axis, sum_over


def accumulate(
    loss_fn: Callable[[Any, Any], jax.Array], weights: jax.Array, micro_batches: int, *, axis_name: str | None = None
) -> Callable[[Any, Any], tuple[jax.Array, Any]]:
    """Make a function that returns the weighted mean of losses and its gradient, a block of rows at a time.

    Sums over all blocks are divided once, by the sum of all weights, so the result does not depend on the number of
    blocks. A loss of weight 0 does not reach the gradient, and one that is not finite counts as one of weight 0; if a
    token makes the gradient non-finite, its row counts as one of weight 0. If no weight is left, or the weights do not
    sum to more than 0, the value is NaN and the gradient 0. To choose the weights from the losses of the whole batch,
    use `value_and_grad(micro_batches=m)`.

    Args:
      loss_fn: `loss_fn(params, batch) -> losses`, `[b]` or `[b, T]`, of any number of rows.
      weights: `[B]`, or `[B, T]` for tokens, at least 0, such as a mask of real tokens.
      micro_batches: number of equal blocks, static; it divides B.
      axis_name: the axis over which `shard_map` or `pmap` shards batch and weights. Sums are then over all devices.

    Returns:
      `fn(params, batch) -> (value, grads)`, where the batch has B rows; the value is `[]`, float32 (float64 with x64).

    Raises:
      TypeError: if `micro_batches` is not a static int or losses are not floating point.
      ValueError: if losses and weights differ in shape, leading axes differ, or `micro_batches` does not divide B.

    References:
      Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour (arXiv 1706.02677), section 3.2: divide
      by the size of the whole mini-batch, not by that of a part.

    Examples:
      >>> loss_fn = lambda w, x: (w - x) ** 2
      >>> value, grad = accumulate(loss_fn, jnp.array([1.0, 1.0, 0.0, 1.0]), 2)(0.0, jnp.array([0.0, 1.0, 9.0, 2.0]))
      >>> round(float(value), 4), float(grad)
      (1.6667, -2.0)
    """
    check_count("micro_batches", micro_batches)
    if jnp.ndim(weights) not in (1, 2):
        raise ValueError(f"weights has shape {list(jnp.shape(weights))}, wanted [B] or [B, T], one for each loss.")

    def fn(params, batch):
        model, axis = split_model(params, None), bound_axis(axis_name)
        step = Step(loss_fn, Items("losses", None, axis), model, name="loss_fn")
        batch = jax.tree.map(jnp.asarray, batch)
        check_leading_axis("batch", batch, jnp.shape(weights)[0])
        own = as_weights(weights)
        exponent = jnp.frexp(sum_over(jnp.sum(own), axis))[1]  # sums near 1, exactly scaled, do not overflow in float16
        own = jnp.ldexp(own, -jnp.clip(exponent, -100, 100))
        passed = step.differentiate_blocks(batch, own, (model.rest, None), micro_batches, recheck=True)
        sums = passed.value, passed.grads, jnp.sum(passed.choice.weights)
        value, grads, total = sum_over(sums, axis)
        model.write(passed.carried[0])

        def mean(g):
            wide = wide_dtype(g.dtype)
            return (g.astype(wide) / total.astype(wide)).astype(g.dtype)

        value = jnp.where(total > 0, value / total, jnp.nan)
        return value, model.gradient(zero_unless(total > 0, jax.tree.map(mean, grads)))

    return fn
