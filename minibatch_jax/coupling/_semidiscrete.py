"""Semi-discrete coupling: fresh noise against the whole data set, by one potential for each data item.

The potentials are learned over batches of noise by stochastic gradient ascent on the dual; once they are, a noise finds
its partner among all N items without solving anything, and the pairing does not depend on the batch.

References:
  Genevay et al., Stochastic optimization for large-scale optimal transport, 2016 (arXiv 1605.08527).
  Mousavi-Hosseini et al., Flow matching with semidiscrete couplings, 2025 (arXiv 2509.25519).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_number, check_shape
from minibatch_jax.base import weight_transformation
from minibatch_jax.coupling._scaling import divide


class SemidiscreteState(NamedTuple):
    """State of `couple_semidiscrete`."""

    potentials: jax.Array  # shape=(N,)
    average: jax.Array  # shape=(N,), moving average of the potentials, which the plan uses
    num_updates: jax.Array  # shape=(), dtype=int32


def semidiscrete_plan(cost: jax.Array, potentials: jax.Array, b: jax.Array, *, epsilon: float | jax.Array) -> jax.Array:
    """Probability of each item for each noise, `b_j exp((g_j - cost_ij) / epsilon)` divided by its row sum.

    Args:
      cost: `[B, N]`, floating point; a pair of non-finite cost is forbidden.
      potentials: `[N]`, g.
      b: `[N]`, mass of each item, at least 0.
      epsilon: entropic regularization, at least 0; 0 gives each noise the item of the largest `g_j - cost_ij`.

    Returns:
      `[B, N]`, rows of sum 1, or 0 where a row has no allowed pair.

    Examples:
      >>> semidiscrete_plan(jnp.array([[0.0, 1.0]]), jnp.array([0.0, 3.0]), jnp.ones(2) / 2, epsilon=0.0).tolist()
      [[0.0, 1.0]]
    """
    check_shape("cost", cost, (None, None))
    check_shape("potentials", potentials, cost.shape[1:])
    check_shape("b", b, cost.shape[1:])
    check_number("epsilon", epsilon, 0)
    width = jnp.asarray(epsilon, potentials.dtype)
    allowed = jnp.isfinite(cost) & (b > 0)[None, :]
    score = jnp.where(allowed, potentials[None, :] - cost.astype(potentials.dtype), -jnp.inf)
    some = jnp.any(allowed, axis=1, keepdims=True)
    score = score - jnp.where(some, jnp.max(score, axis=1, keepdims=True), 0)
    column = lax.broadcasted_iota(jnp.int32, score.shape, 1)
    first = jnp.min(jnp.where(score == 0, column, score.shape[1]), axis=1, keepdims=True)
    hard = (column == first).astype(score.dtype)
    soft = b[None, :] * jnp.exp(score / jnp.where(width > 0, width, 1))
    chosen = jnp.where(allowed, jnp.where(width > 0, soft, hard), 0)
    return chosen / jnp.where(some, jnp.sum(chosen, axis=1, keepdims=True), 1)


def couple_semidiscrete(
    epsilon: float | jax.Array, learning_rate: float | jax.Array, *, decay: float = 0.99
) -> optax.GradientTransformationExtraArgs:
    """Give each noise of a batch its partner in the data, and learn the potentials. Signal: `cost` [B, N].

    The plan of a step uses the potentials from before it: row i of the incoming weights keeps its sum; the column sums
    are the masses of the items, which only an average over many batches keeps. Forbidden pairs have weight 0.

    Args:
      epsilon: as in `semidiscrete_plan`.
      learning_rate: step of the potentials in the unit of the cost: an item drawn twice as often as it should falls by
        it.
      decay: of the average of the potentials, in [0, 1]; the first steps weigh more.

    Examples:
      >>> tx = couple_semidiscrete(1.0, 0.5, decay=0.0)
      >>> weights, cost = jnp.ones((2, 2)) / 4, jnp.array([[0.0, 1.0], [0.0, 1.0]])
      >>> state = tx.init(weights)
      >>> for _ in range(30):
      ...   plan, state = tx.update(weights, state, cost=cost)
      >>> [round(x, 2) for x in plan[0].tolist()]
      [0.25, 0.25]
    """
    check_number("epsilon", epsilon, 0)
    check_number("learning_rate", learning_rate, 0, open_low=True)
    check_number("decay", decay, 0, 1)

    def init(weights):
        zeros = jnp.zeros(weights.shape[-1], weights.dtype)
        return SemidiscreteState(zeros, zeros, jnp.zeros((), jnp.int32))

    def update(weights, state, params=None, *, cost, **extra_args):
        check_shape("cost", cost, weights.shape)
        kept = jnp.where((weights > 0) & jnp.isfinite(cost), weights, 0)
        rows, items = jnp.sum(kept, axis=1), jnp.sum(kept, axis=0)
        b = divide(items, jnp.sum(items) + jnp.zeros_like(items))
        price = jnp.where(kept > 0, cost.astype(weights.dtype), jnp.inf)
        drawn = semidiscrete_plan(price, state.potentials, b, epsilon=epsilon)
        share = divide(rows, jnp.sum(rows) + jnp.zeros_like(rows))
        missing = b - jnp.sum(share[:, None] * drawn, axis=0)
        step = jnp.where(b > 0, missing / jnp.where(b > 0, b, 1), 0)
        potentials = state.potentials + jnp.asarray(learning_rate, b.dtype) * step
        count = state.num_updates + 1
        rate = jnp.minimum(jnp.asarray(decay, b.dtype), 1 - 1 / count.astype(b.dtype))
        average = rate * state.average + (1 - rate) * potentials
        plan = semidiscrete_plan(price, state.average, b, epsilon=epsilon)
        return rows[:, None] * plan, SemidiscreteState(potentials, average, count)

    return weight_transformation(init, update)
