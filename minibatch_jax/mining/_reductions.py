"""From losses of anchors or pairs to one number."""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice

REDUCTIONS = ("mean", "active_mean", "sum", "none")


def reduce_losses(losses: jax.Array, valid: jax.Array, reduction: str = "mean") -> jax.Array:
    """Reduce the losses of the valid items; 0 where there are none.

    Args:
      losses: any shape, floating point.
      valid: same shape, bool: padding and anchors without pairs are not valid.
      reduction: "mean" over valid items, "active_mean" over those with a positive loss (their number is a constant for
        the gradient), "sum", or "none", which keeps the shape and puts 0 on the others.

    Returns:
      `[]`, or the shape of the losses for "none".

    Raises:
      ValueError: if the reduction is unknown.

    Examples:
      >>> losses, valid = jnp.array([1.0, 0.0, 5.0]), jnp.array([True, True, False])
      >>> [float(reduce_losses(losses, valid, name)) for name in ("mean", "active_mean", "sum")]
      [0.5, 1.0, 1.0]
    """
    check_choice("reduction", reduction, REDUCTIONS)
    kept = jnp.where(valid, losses, jnp.zeros_like(losses))
    if reduction == "none":
        return kept
    total = jnp.sum(kept)
    if reduction == "sum":
        return total
    counted = valid if reduction == "mean" else kept > 0
    return total / jnp.maximum(jnp.sum(counted.astype(total.dtype)), 1)
