"""Reduction of the losses of anchors or pairs to one number."""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_floating
from minibatch_jax.devices import sum_over
from minibatch_jax.mining._pairs import keeps_dtype
from minibatch_jax.weights import weight_dtype

REDUCTIONS = ("mean", "active_mean", "anchor_mean", "sum", "anchors", "none")


@keeps_dtype
def reduce_losses(
    losses: jax.Array, valid: jax.Array, reduction: str = "mean", axis_name: str | None = None
) -> jax.Array:
    """Return the losses of the valid items, reduced; 0 where no item is valid.

    Args:
      losses: `[A]` of anchors or `[A, M]` of pairs, floating point.
      valid: bool, of the same shape: padding and anchors without pairs are not valid.
      reduction: "mean" over the valid items; "active_mean" over those with a positive loss, whose number is a constant
        for the gradient; "anchor_mean", the mean over the anchors of the mean of their valid items; "sum"; "anchors",
        the mean of each anchor; or "none", which keeps the shape. "anchors" and "none" put 0 where nothing is valid.
      axis_name: axis of a `shard_map` or `pmap` over which the anchors are sharded: sums and counts are added up over
        it.

    Returns:
      `[]`; `[A]` for "anchors"; the shape of the losses for "none". It has the dtype of the losses, but sums and counts
      are float32 at least.

    Raises:
      TypeError: if the losses are not floating point.
      ValueError: if the reduction is unknown.

    Examples:
      >>> losses, valid = jnp.array([[1.0, 0.0], [5.0, 9.0]]), jnp.array([[True, True], [True, False]])
      >>> [float(reduce_losses(losses, valid, name)) for name in ("mean", "active_mean", "anchor_mean", "sum")]
      [2.0, 3.0, 2.75, 6.0]
      >>> reduce_losses(losses, valid, "anchors").tolist()
      [0.5, 5.0]
    """
    check_choice("reduction", reduction, REDUCTIONS)
    check_floating("losses", losses)
    kept = jnp.where(valid, losses, 0).astype(weight_dtype(losses.dtype))
    if reduction in ("anchors", "anchor_mean") and kept.ndim > 1:
        kept = jnp.sum(kept, axis=1) / jnp.maximum(jnp.sum(valid.astype(kept.dtype), axis=1), 1)
        valid = jnp.any(valid, axis=1)
    if reduction in ("anchors", "none"):
        return kept
    counted = ~(kept <= 0) if reduction == "active_mean" else valid  # NaN counts, so that it shows
    total = sum_over(jnp.sum(jnp.where(counted, kept, 0)), axis_name)
    if reduction == "sum":
        return total
    return total / jnp.maximum(sum_over(jnp.sum(counted.astype(total.dtype)), axis_name), 1)
