"""How the learning rate follows the batch size: linear and square-root scaling, and a warm-up that gets there.

A batch k times as large takes 1/k of the steps in an epoch. For SGD below the critical batch size, k times the rate
makes up for it; for Adam, sqrt(k) times. The scaled rate is too high for the first epochs, so a large batch begins with
the rate of the small one. Only learning rates are scaled: weight decay, momentum and the rate at which target networks
follow stay as they are.

References:
  Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017 (arXiv 1706.02677).
  Nikulin et al., Q-ensemble for offline RL: don't scale the ensemble, scale the batch size, 2022 (arXiv 2211.11092).

Method: scaling rules and gradual warm-up
Paper: 1706.02677, 2211.11092
Experiment: large_batches
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_number, check_whole
from minibatch_jax.schedules._steps import real, since

Number = float | jax.Array


def linear_scaling(base_rate: Number, base_batch: Number, batch: Number) -> Number:
    """Return the learning rate `base_rate * batch / base_batch`: the rule for SGD.

    Args:
      base_rate: rate that was tuned with the batch size `base_batch`, >= 0.
      base_batch: batch size, > 0.
      batch: batch size to use, > 0; may be traced, such as that of a step.

    Returns:
      A number, or an array if an argument is one, in float32 at least, NaN where an argument is out of range.

    Raises:
      TypeError: if an argument is not a number.
      ValueError: if an argument is out of range.

    References:
      Goyal et al., 2017 (arXiv 1706.02677).

    Examples:
      >>> round(linear_scaling(0.1, 256, 8192), 6)
      3.2
    """
    return _scaled(base_rate, base_batch, batch, 1.0)


def sqrt_scaling(base_rate: Number, base_batch: Number, batch: Number) -> Number:
    """Return the learning rate `base_rate * sqrt(batch / base_batch)`: the rule for Adam.

    LB-SAC scales the rates of actor, critics and temperature so, and not the rate at which target networks follow.

    Args:
      base_rate: rate that was tuned with the batch size `base_batch`, >= 0.
      base_batch: batch size, > 0.
      batch: batch size to use, > 0; may be traced, such as that of a step.

    Returns:
      A number, or an array if an argument is one, in float32 at least, NaN where an argument is out of range.

    Raises:
      TypeError: if an argument is not a number.
      ValueError: if an argument is out of range.

    References:
      Nikulin et al., 2022 (arXiv 2211.11092).

    Examples:
      >>> round(sqrt_scaling(3e-4, 256, 10_000), 6)
      0.001875
    """
    return _scaled(base_rate, base_batch, batch, 0.5)


def gradual_warmup(base_rate: Number, peak_rate: Number, warmup_steps: int) -> optax.Schedule:
    """Return a schedule that rises linearly from the rate of the small batch, not from 0, to that of the large one.

    Args:
      base_rate: value of step 0 if there is a warm-up, >= 0, may be traced.
      peak_rate: value from step `warmup_steps` on, >= 0, may be traced.
      warmup_steps: steps of the warm-up, >= 0.

    Returns:
      `fn(step) -> []`.

    Raises:
      TypeError: if a rate is not a number or the number of steps no int.
      ValueError: if one of them is negative.

    References:
      Goyal et al., 2017 (arXiv 1706.02677).

    Examples:
      >>> schedule = gradual_warmup(0.1, 0.5, 4)
      >>> [round(float(schedule(step)), 3) for step in (0, 1, 4, 9)]
      [0.1, 0.2, 0.5, 0.5]
    """
    check_number("base_rate", base_rate, 0)
    check_number("peak_rate", peak_rate, 0)
    check_whole("warmup_steps", warmup_steps)
    if warmup_steps == 0:
        return optax.constant_schedule(peak_rate)
    return optax.linear_schedule(base_rate, peak_rate, warmup_steps)


def goyal_schedule(
    base_rate: Number,
    base_batch: int,
    batch: int,
    *,
    steps_per_epoch: float | None = None,
    warmup: float = 5,
    boundaries: Sequence[float] = (30, 60, 80),
    factor: float = 0.1,
) -> optax.Schedule:
    """Return the schedule of "ImageNet in 1 hour": warm-up to the linearly scaled rate, then falls at some epochs.

    Args:
      base_rate: rate of the batch size `base_batch`, and of step 0; > 0, may be traced.
      base_batch: batch size of that rate, >= 1.
      batch: batch size to use, >= 1.
      steps_per_epoch: steps of an epoch with that batch size, > 0; None if `warmup` and `boundaries` are in steps.
      warmup: epochs (or steps) of the warm-up, >= 0.
      boundaries: epochs (or steps) at which the rate falls, increasing, after the warm-up.
      factor: what the rate is multiplied by at each of them, > 0.

    Returns:
      `fn(step) -> []`. Epochs are rounded to steps.

    Raises:
      TypeError: if a number is none.
      ValueError: if a number is out of range, or the boundaries do not increase or lie in the warm-up.

    References:
      Goyal et al., 2017 (arXiv 1706.02677).

    Examples:
      >>> schedule = goyal_schedule(0.1, 256, 1024, steps_per_epoch=10)
      >>> [round(float(schedule(step)), 4) for step in (0, 25, 50, 299, 300, 600, 800)]
      [0.1, 0.25, 0.4, 0.4, 0.04, 0.004, 0.0004]
    """
    check_number("base_rate", base_rate, 0, open_low=True)
    check_number("factor", factor, 0, open_low=True)
    check_number("warmup", warmup, 0)
    if steps_per_epoch is not None:
        check_number("steps_per_epoch", steps_per_epoch, 0, open_low=True)
    per_unit = 1 if steps_per_epoch is None else steps_per_epoch
    for boundary in boundaries:
        check_number("boundaries", boundary, 0)
    first, *falls = (round(number * per_unit) for number in (warmup, *boundaries))
    for left, right in itertools.pairwise([first, *falls]):
        if right <= left:
            wanted = "wanted increasing ones after the warm-up"
            raise ValueError(f"boundaries has step {right} after step {left}, {wanted}.")
    peak = linear_scaling(base_rate, base_batch, batch)
    after = optax.piecewise_constant_schedule(peak, {fall - first: factor for fall in falls})
    joined = optax.join_schedules([gradual_warmup(base_rate, peak, first), after], [first])
    return lambda step: joined(since(step, 0))


def _scaled(base_rate: Number, base_batch: Number, batch: Number, power: float) -> Any:
    check_number("base_rate", base_rate, 0)
    check_number("base_batch", base_batch, 0, open_low=True)
    check_number("batch", batch, 0, open_low=True)
    rate, base, size = (real(x) if isinstance(x, jax.Array) else x for x in (base_rate, base_batch, batch))
    scaled: Any = rate * (size / base) ** power
    if not isinstance(scaled, jax.Array):
        return scaled
    return jnp.where((rate >= 0) & (base > 0) & (size > 0), scaled, jnp.nan)
