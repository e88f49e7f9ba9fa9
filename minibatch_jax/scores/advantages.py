"""Advantages of actions, which PPO's losses are weighed by: estimated along rollouts, normalized over mini-batches.

References:
  Schulman et al., High-dimensional continuous control using generalized advantage estimation, 2015 (arXiv 1506.02438).

Method: generalized advantage estimation
Paper: 1506.02438
Experiment: ppo_minibatches
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_number, check_shape, mask_or_all
from minibatch_jax._loops import bind, scan
from minibatch_jax.devices import max_over, sum_over
from minibatch_jax.weights import weight_dtype


class Advantages(NamedTuple):
    """What `generalized_advantages` returns.

    Attributes:
      advantages: `[T, ...]`, how much better than expected each action was.
      returns: `[T, ...]`, advantages + values, which the value function is fitted to.
    """

    advantages: jax.Array
    returns: jax.Array


def generalized_advantages(
    rewards: jax.Array,
    values: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    *,
    truncated: jax.Array | None = None,
    final_values: jax.Array | None = None,
    discount: float | jax.Array = 0.99,
    decay: float | jax.Array = 0.95,
) -> Advantages:
    """Return generalized advantages (GAE) of rollouts that run over the ends of episodes.

    Step t has the error `r + discount * v' - v`, where v' is the value of the observation after it: 0 where the episode
    ended, `final_values` where a time limit cut it off, else that of row t + 1. An advantage is the sum of the errors
    from its step to the end of the episode or rollout, with the weights `(discount * decay)^k`. A time limit that is
    passed as an end says that nothing was left to gain, which is common and biased.

    Args:
      rewards: `[T, ...]`, of the action of each step.
      values: `[T, ...]`, of the observation before it.
      next_value: `[...]`, of the observation after the last step.
      terminated: `[T, ...]` bool, whether the step ended its episode.
      truncated: `[T, ...]` bool, whether a time limit cut the episode off after the step; together with `final_values`.
      final_values: `[T, ...]`, value of the last observation of such an episode, which is not that of row t + 1; read
        where `truncated` is True alone.
      discount: of later rewards, in [0, 1], may be traced.
      decay: of later errors (lambda), in [0, 1], may be traced; 0 for the error of the step alone, 1 for the discounted
        return less the value.

    Returns:
      Advantages and returns, `[T, ...]`, float32 at least.

    Raises:
      TypeError: if an array has another kind of dtype, or only one of `truncated` and `final_values` is given.
      ValueError: if shapes differ or a number is not in [0, 1].

    References:
      Schulman et al., 2015 (arXiv 1506.02438).

    Examples:
      >>> rewards, values = jnp.array([1.0, 0.0, 2.0]), jnp.array([0.5, 1.0, 1.0])
      >>> ends = jnp.array([False, True, False])
      >>> found = generalized_advantages(rewards, values, jnp.array(4.0), ends, discount=0.5, decay=1.0)
      >>> found.advantages.tolist(), found.returns.tolist()
      ([0.5, -1.0, 3.0], [1.0, 0.0, 4.0])
    """
    check_number("discount", discount, 0, 1)
    check_number("decay", decay, 0, 1)
    if (truncated is None) != (final_values is None):
        raise TypeError("one of truncated and final_values is given, wanted both or neither.")
    shape = jnp.shape(values)
    check_shape("values", values, (None, *shape[1:]))
    check_shape("rewards", rewards, shape)
    check_shape("next_value", next_value, shape[1:])
    check_shape("terminated", terminated, shape)
    for name, array in (("rewards", rewards), ("values", values), ("next_value", next_value)):
        check_floating(name, array)
    terminated = mask_or_all("terminated", terminated, shape)
    dtype = weight_dtype(values.dtype)
    values, rewards = values.astype(dtype), rewards.astype(dtype)
    following = jnp.concatenate([values[1:], next_value.astype(dtype)[None]])
    ends = terminated
    if truncated is not None and final_values is not None:
        check_floating("final_values", final_values)
        check_shape("final_values", final_values, shape)
        ends |= mask_or_all("truncated", truncated, shape)
        following = jnp.where(truncated, final_values.astype(dtype), following)
    gamma = jnp.asarray(discount, dtype)
    errors = rewards + gamma * jnp.where(terminated, 0, following) - values
    factors = jnp.where(ends, 0, gamma * jnp.asarray(decay, dtype))
    _, advantages = scan(bind(_one_step_back), jnp.zeros_like(errors[0]), (errors, factors), reverse=True)
    return Advantages(advantages, advantages + values)


def normalized_advantages(
    advantages: jax.Array,
    *,
    where: jax.Array | None = None,
    axis_name: str | None = None,
    epsilon: float | jax.Array = 1e-8,
) -> jax.Array:
    """Return advantages less their mean, divided by their standard deviation, over all rows of a mini-batch.

    The variance has the divisor n - 1. With `axis_name` both are those of the rows of all devices, so that a mini-batch
    means the same on one device and on many; the mean of the devices' deviations would be another number. Rows that are
    not finite do not count, and stay as they are, so that `value_and_grad` drops and counts them.

    Args:
      advantages: `[B, ...]`, of one device.
      where: `[B, ...]` bool, False on padding, which becomes 0; all by default.
      axis_name: axis of `shard_map` or `pmap` over which the mini-batch is sharded.
      epsilon: added to the deviation, >= 0, may be traced.

    Returns:
      The shape of the advantages, float32 at least. Rows that are all equal become 0.

    Raises:
      TypeError: if the advantages are not floating point or the mask does not hold bools.
      ValueError: if shapes differ or epsilon is negative.

    References:
      Jaeger et al., 2025 (arXiv 2504.17838).

    Examples:
      >>> normalized_advantages(jnp.array([1.0, 2.0, 3.0, 9.0]), where=jnp.array([True, True, True, False])).tolist()
      [-1.0, 0.0, 1.0, 0.0]
    """
    check_floating("advantages", advantages)
    check_number("epsilon", epsilon, 0)
    exists = mask_or_all("where", where, jnp.shape(advantages))
    advantages = advantages.astype(weight_dtype(advantages.dtype))
    counts = exists & jnp.isfinite(advantages)
    clean = jnp.where(counts, advantages, 0)
    number, total = sum_over((jnp.sum(counts, dtype=jnp.int32).astype(clean.dtype), jnp.sum(clean)), axis_name)
    ends = [jnp.max(jnp.where(counts, x, -jnp.inf)) for x in (clean, -clean)]
    high, minus_low = max_over(ends, axis_name)
    equal = high == -minus_low  # then their mean may differ from them by rounding
    centered = jnp.where(equal, 0, clean - total / jnp.maximum(number, 1))
    squares = sum_over(jnp.sum(jnp.where(counts, centered**2, 0)), axis_name)
    deviation = jnp.sqrt(squares / jnp.maximum(number - 1, 1)) + epsilon
    scaled = jnp.where(deviation > 0, centered / jnp.where(deviation > 0, deviation, 1), 0)
    return jnp.where(counts, scaled, jnp.where(exists, advantages, 0))


def _one_step_back(advantage, inputs):
    error, factor = inputs
    advantage = jnp.where(factor == 0, error, error + factor * advantage)  # 0 * NaN is NaN
    return advantage, advantage
