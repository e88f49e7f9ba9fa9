"""Momentum when the learning rate is inside the buffer and changes.

SGD with momentum is written in two ways: A, `v = m v + g; w -= rate v`, as in `optax.sgd`, and B, `u = m u + rate g;
w -= u`, as in `optax.lars`. They agree as long as the rate is constant. When it changes, B goes on with gradients that
carry old rates: a warm-up is then slower, and a drop of the rate is felt only after many steps. With momentum
correction, `u = m (rate / last rate) u + rate g`, B is A for every sequence of rates.

References:
  Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017 (arXiv 1706.02677).

Method: momentum correction
Paper: 1706.02677
Experiment: large_batches
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_number
from minibatch_jax._vector import nonzero
from minibatch_jax.schedules._steps import real


class MomentumCorrectionState(NamedTuple):
    """State of `momentum_correction`.

    Attributes:
      step: `[]` int32, updates so far.
      velocity: tree like the parameters, the buffer divided by the last rate, float32 at least.
    """

    step: jax.Array
    velocity: Any


def momentum_correction(
    learning_rate: float | jax.Array | optax.Schedule, momentum: float | jax.Array = 0.9, *, nesterov: bool = False
) -> optax.GradientTransformation:
    """Average updates that carry a learning rate, as `optax.trace` does, and correct the average when the rate changes.

    Put it behind `optax.scale_by_learning_rate` with the same rate. What it averages may have other factors too, such
    as trust ratios; those are not corrected. At a rate of 0 nothing moves and the average decays by `momentum`; the
    gradient of such a step came multiplied by 0 and is lost, which is the one difference to form A.

    Args:
      learning_rate: rate that the updates carry: a number >= 0, which may be traced, or a schedule.
      momentum: share of the old average that stays, in [0, 1), may be traced.
      nesterov: whether to look one step ahead.

    Returns:
      A transformation of updates, in the dtype of the updates. None, the gradient of what is frozen, stays None.

    Raises:
      TypeError: if the rate or the momentum is not a number.
      ValueError: if the rate is negative or the momentum not in [0, 1).

    References:
      Goyal et al., 2017 (arXiv 1706.02677).

    Examples:
      >>> rate = lambda step: jnp.where(step < 1, 1.0, 0.5)
      >>> tx = optax.chain(optax.scale_by_learning_rate(rate), momentum_correction(rate, 0.5))
      >>> state, moves = tx.init(jnp.zeros(())), []
      >>> for gradient in jnp.array([8.0, 8.0]):
      ...   update, state = tx.update(gradient, state)
      ...   moves.append(float(update))
      >>> moves  # by optax.trace the second is -8
      [-8.0, -6.0]
    """
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate, 0)
    check_number("momentum", momentum, 0, 1, open_high=True)

    def init(params: Any) -> MomentumCorrectionState:
        velocity = jax.tree.map(lambda p: jnp.zeros_like(real(p)), params)
        return MomentumCorrectionState(jnp.zeros((), jnp.int32), velocity)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MomentumCorrectionState]:
        del params
        rate = real(learning_rate(state.step) if callable(learning_rate) else learning_rate)

        def decayed(u, v):  # the velocity after this gradient
            return momentum * v + real(u) / nonzero(rate).astype(v.dtype)

        def trained(move):
            return lambda u, v: None if u is None else move(u, v)

        def move(u, v):
            return (rate.astype(v.dtype) * v).astype(jnp.result_type(u))

        over = functools.partial(jax.tree.map, is_leaf=lambda u: u is None)
        velocity = over(trained(decayed), updates, state.velocity)
        ahead = over(trained(decayed), updates, velocity) if nesterov else velocity
        moves = over(trained(move), updates, ahead)
        velocity = over(lambda new, old: old if new is None else new, velocity, state.velocity)
        return moves, MomentumCorrectionState(jnp.asarray(optax.safe_increment(state.step)), velocity)

    return optax.GradientTransformation(init, update)
