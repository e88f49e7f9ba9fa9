"""Semi-discrete coupling: fresh noise against the whole data set, by one potential for each data item.

The potentials are learned over batches of noise, by stochastic gradient ascent on the dual. With learned potentials a
noise finds its partner among all N items without a solver, and the pairing does not depend on the batch.

References:
  Genevay et al., Stochastic optimization for large-scale optimal transport, 2016 (arXiv 1605.08527).
  Mousavi-Hosseini et al., Flow matching with semidiscrete couplings, 2025 (arXiv 2509.25519).

Method: semi-discrete transport
Paper: 2509.25519
Experiment: semidiscrete_flow
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_number, check_shape
from minibatch_jax.coupling._problem import marginals_of, mass_of
from minibatch_jax.coupling._sinkhorn_loop import divide
from minibatch_jax.weights import weight_dtype, weight_transformation


class SemidiscreteState(NamedTuple):
    """State of `couple_semidiscrete`.

    Attributes:
      potentials: `[N]`, one for each item.
      average: `[N]`, moving average of the potentials, which the plan uses.
      num_updates: `[]` int32, how many batches have been seen.
    """

    potentials: jax.Array
    average: jax.Array
    num_updates: jax.Array


def semidiscrete_plan(cost: jax.Array, potentials: jax.Array, b: jax.Array, *, epsilon: float | jax.Array) -> jax.Array:
    """Return the probability of each item for each noise, `b_j exp((g_j - cost_ij) / epsilon)` divided by its row sum.

    With epsilon 0 each noise gets the item of the largest `g_j - cost_ij`, of equal ones the first. An item of mass 0
    is never chosen.

    Args:
      cost: `[B, N]`, floating point; a pair of non-finite cost is forbidden.
      potentials: `[N]`, g, floating point.
      b: `[N]`, mass of each item, at least 0.
      epsilon: absolute entropic regularization, at least 0, may be traced.

    Returns:
      `[B, N]`, float32 (float64 if the potentials are), rows of sum 1, or 0 where a row has no allowed pair.

    Raises:
      TypeError: if b is not floating point.
      ValueError: if shapes do not match, epsilon is negative, or a concrete b is negative or not finite.

    References:
      Mousavi-Hosseini et al., Flow matching with semidiscrete couplings, 2025 (arXiv 2509.25519).

    Examples:
      >>> semidiscrete_plan(jnp.array([[0.0, 1.0]]), jnp.array([0.0, 3.0]), jnp.ones(2) / 2, epsilon=0.0).tolist()
      [[0.0, 1.0]]
    """
    check_shape("cost", cost, (None, None))
    check_shape("potentials", potentials, cost.shape[1:])
    check_number("epsilon", epsilon, 0)
    potentials = potentials.astype(weight_dtype(potentials.dtype))
    b = mass_of("b", b, cost.shape[1], potentials.dtype)
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

    The plan of a step uses the averaged potentials from before the step. Row i of the incoming weights keeps its sum.
    The column sums are the masses of the items, which are kept only on average over many batches. A pair of weight 0 or
    of non-finite cost is forbidden.

    Args:
      epsilon: absolute entropic regularization, at least 0; 0 gives each noise a single item.
      learning_rate: step of the potentials, > 0, in the unit of the cost: the potential of an item that is drawn twice
        as often as it should be falls by this.
      decay: share of the old value in the average of the potentials, in [0, 1]; the first steps weigh more.

    Returns:
      A transformation with a `SemidiscreteState`; its update takes the signal `cost` `[B, N]` and returns the plan as
      weights.

    Raises:
      ValueError: if epsilon is negative, `learning_rate` not positive or `decay` not in [0, 1]; on update, if the cost
        does not have the shape of the weights.

    References:
      Genevay et al., Stochastic optimization for large-scale optimal transport, 2016 (arXiv 1605.08527).
      Mousavi-Hosseini et al., Flow matching with semidiscrete couplings, 2025 (arXiv 2509.25519).

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
        allowed, rows, items = marginals_of(weights, cost)
        b = divide(items, jnp.sum(items) + jnp.zeros_like(items))
        price = jnp.where(allowed, cost.astype(weights.dtype), jnp.inf)
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
