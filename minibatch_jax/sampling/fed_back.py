"""Rows in proportion to a weight of each row of the data set, which losses that are fed back change.

References:
  Loshchilov & Hutter, Online batch selection for faster training of neural networks, 2015 (arXiv 1511.06343).

Method: data-set weights fed back from losses
Paper: 1511.06343
Experiment: speed samplers
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax.devices import replicate
from minibatch_jax.sampling._sampler import Rows, Sampler, rows_of


class WeightedState(NamedTuple):
    """State of `weighted`.

    Attributes:
      rng_key: `[]` key of the next batch.
      weights: `[G, M]` float32, weight of each row of the data set, in G groups of M rows; 0 beyond the last row.
      totals: `[G]` float32, sum of each group.
      num_examples: `[]` int32, N.
      exhausted: `[]` bool, whether the last batch was padding because no weight was above 0.
      ignored: `[]` int32, rows fed back that were not in the data set or had no finite loss.
    """

    rng_key: jax.Array
    weights: jax.Array
    totals: jax.Array
    num_examples: jax.Array
    exhausted: jax.Array
    ignored: jax.Array


def weighted(batch_size: int, *, decay: float | jax.Array = 0.0) -> Sampler:
    """Draw rows with replacement, in proportion to a weight of each; `update(losses=...)` makes losses the weights.

    After a step the weight of a row is `decay` x its old weight + (1 - decay) x its loss, or 0 if that is negative. A
    row keeps its weight until it is fed back; a row that is twice in a batch takes one of its losses, and those should
    be equal. If all weights are 0, the batch is padding and the state says so.

    Args:
      batch_size: b, static.
      decay: share of the old weight, in [0, 1], may be traced.

    Returns:
      A sampler; `init(key, weights=weights)` with `[N]` floating-point weights of which those that are negative or not
      finite count as 0, and `update(state, rows, losses=losses)` with `[b]` losses of those rows.

    Raises:
      TypeError: if the batch size is not a static int; in `init` and `update`, if weights or losses are not floating
        point.
      ValueError: if the batch size is below 1 or decay out of range; in `init` and `update`, if a shape does not fit.

    Examples:
      >>> sampler = weighted(4)
      >>> state = sampler.init(0, weights=jnp.array([0.0, 1.0, 1.0]))
      >>> rows, state = sampler.sample(state)
      >>> state = sampler.update(state, rows, losses=jnp.where(rows.indices == 1, 0.0, 3.0))
      >>> rows, state = sampler.sample(state)
      >>> rows.indices.tolist(), rows.weights.tolist()
      ([2, 2, 2, 2], [0.25, 0.25, 0.25, 0.25])
    """
    check_count("batch_size", batch_size)
    check_number("decay", decay, 0, 1)

    def init(key: jax.Array | int, *, weights: jax.Array) -> WeightedState:
        check_shape("weights", weights, (None,))
        check_floating("weights", weights)
        count = weights.shape[0]
        width = math.isqrt(count - 1) + 1
        groups = -(-count // width)
        usable = jnp.where(jnp.isfinite(weights) & (weights > 0), weights, 0).astype(jnp.float32)
        grouped = jnp.pad(usable, (0, groups * width - count)).reshape(groups, width)
        zero = jnp.zeros((), jnp.int32)
        own_key, _ = jax.random.split(as_key(key))  # a step may donate the state, but not the key of the caller
        totals, exhausted = jnp.sum(grouped, axis=1), jnp.zeros((), bool)
        return WeightedState(own_key, grouped, totals, jnp.int32(count), exhausted, zero)

    def sample(state: WeightedState) -> tuple[Rows, WeightedState]:
        next_key, group_key, row_key = jax.random.split(state.rng_key, 3)
        group = _draw(group_key, state.totals[None], batch_size)
        place = _draw(row_key, state.weights[group], batch_size)
        exhausted = ~jnp.any(state.totals > 0)
        rows = rows_of(jnp.where(exhausted, -1, group * state.weights.shape[1] + place))
        return rows, state._replace(rng_key=next_key, exhausted=exhausted)

    def update(state: WeightedState, rows: Rows, *, losses: jax.Array, **signals: object) -> WeightedState:
        check_shape("losses", losses, rows.indices.shape)
        check_floating("losses", losses)
        losses = replicate(losses)
        known = (rows.indices >= 0) & (rows.indices < state.num_examples)
        usable = known & jnp.isfinite(losses)
        width = state.weights.shape[1]
        index = jnp.where(known, rows.indices, 0)
        group, place = index // width, index % width
        new = decay * state.weights[group, place] + (1 - decay) * losses.astype(jnp.float32)
        nowhere = jnp.where(usable, group, state.weights.shape[0])
        weights = state.weights.at[nowhere, place].set(jnp.maximum(new, 0), mode="drop")
        totals = state.totals.at[nowhere].set(jnp.sum(weights[group], axis=1), mode="drop")
        ignored = state.ignored + jnp.sum(~usable & (rows.weights != 0), dtype=jnp.int32)
        return state._replace(weights=weights, totals=totals, ignored=ignored)

    return Sampler(init, sample, update)


def _draw(key: jax.Array, mass: jax.Array, count: int) -> jax.Array:
    """Draw columns in proportion to their mass, one from each row, or all from the only row; none without mass."""
    ends = jnp.cumsum(mass, axis=1)
    mark = jax.random.uniform(key, (count, 1), mass.dtype) * ends[:, -1:]
    index = jnp.sum(ends <= mark, axis=1, dtype=jnp.int32)
    last = mass.shape[1] - 1 - jnp.argmax(mass[:, ::-1] > 0, axis=1).astype(jnp.int32)
    return jnp.minimum(index, last)
