"""Boundary from per-example gradients to one gradient: first in an `optax.chain`, before the optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.experimental import aggregating

from minibatch_jax._checks import check_count, check_shape
from minibatch_jax.boundaries.chosen_rows import check_leading_axis
from minibatch_jax.weights import Weights, uniform_like


class WeightedAggregateState(NamedTuple):
    """State of `weighted_aggregate`.

    Attributes:
      selection: state of the selection inside.
    """

    selection: Any


def weighted_aggregate(selection: optax.GradientTransformationExtraArgs, batch_size: int) -> aggregating.Aggregator:
    """Sum per-example gradients with selected weights. Put this first in an `optax.chain`.

    Updates come as leaves `[B, *param]` and leave as leaves `[*param]`, so that one optax optimizer leads from
    per-example gradients to the update. Rows of weight 0 do not reach the sum, whatever they hold. With
    `optax.experimental.aggregating.process` it stands between a transformation of per-example gradients and the
    optimizer; wrap the first in `optax.with_extra_args_support`, so that the signals pass through it.

    Args:
      selection: weight transformation over `[batch_size]`; the incoming weights are 1/B.
      batch_size: B, static.

    Returns:
      An `optax.experimental.aggregating.Aggregator`; pass the selection's signals to `update`, `losses` among them.

    Raises:
      TypeError: if `batch_size` is not a static int or, in `update`, the losses are not floating point.
      ValueError: if `batch_size` is below 1 or, in `update`, a leaf or the losses do not have B rows.

    Examples:
      >>> from minibatch_jax.selection import keep_topk
      >>> tx = optax.chain(weighted_aggregate(keep_topk(1), 2), optax.sgd(1.0))
      >>> params = jnp.zeros(3)
      >>> gradients = jnp.array([[1.0, 1.0, 1.0], [2.0, 4.0, 6.0]])
      >>> updates, state = tx.update(gradients, tx.init(params), params, losses=jnp.array([0.1, 0.9]))
      >>> updates.tolist()
      [-1.0, -2.0, -3.0]
    """
    check_count("batch_size", batch_size)
    select = optax.with_extra_args_support(selection).update

    def init(params):
        return WeightedAggregateState(selection.init(jnp.zeros(batch_size)))

    def update(updates, state, params=None, *, losses, **extra_args):
        check_leading_axis("updates", updates, batch_size)
        check_shape("losses", losses, (batch_size,))
        weights: Weights
        weights, inner = select(uniform_like(losses), state.selection, None, losses=losses, **extra_args)
        weights = jnp.where(jnp.isfinite(losses), weights, 0)

        def aggregate(gradients):
            rows = jnp.expand_dims(weights, range(1, gradients.ndim))
            weighted = jnp.where(rows == 0, 0, rows * gradients.astype(rows.dtype))
            return jnp.sum(weighted, axis=0).astype(gradients.dtype)

        return jax.tree.map(aggregate, updates), WeightedAggregateState(inner)

    update_fn: Any = update  # the type of optax knows no signals
    return aggregating.Aggregator(init, update_fn)
