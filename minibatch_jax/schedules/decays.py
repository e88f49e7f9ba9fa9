"""Learning rates that warm up, stay, and decay at the end: a run without a horizon, and decays that branch off it.

Stop when you like: whatever the length of the stable part, a short decay gives about the loss of a cosine that was
planned for that length. Steps count from 0, and a decay of D steps has its first step at the stable value and ends with
its last step, not one later, at the end value.

References:
  Hu et al., MiniCPM: unveiling the potential of small language models, 2024 (arXiv 2404.06395).
  Hägele et al., Scaling laws and compute-optimal training beyond fixed training durations, 2024 (arXiv 2405.18392).
  Hu et al., YuLan-Mini: an open data-efficient language model, 2024 (arXiv 2412.17743).

Method: warm-up, stable, decay (WSD), and branches
Paper: 2404.06395, 2405.18392, 2412.17743
Experiment: decay_shapes, judge_by_decay
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_number, check_whole
from minibatch_jax.schedules._steps import countable, real, since

Shape = str | Callable[[jax.Array], jax.Array]

SHAPES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "1-sqrt": lambda x: 1 - jnp.sqrt(x),
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + jnp.cos(jnp.pi * x)) / 2,
    "quarter-cosine": lambda x: jnp.cos(jnp.pi * x / 2),
}
"""What is left of a decay from 1 to 0 at progress x in [0, 1]."""


def remaining_fraction(progress: jax.Array | float, shape: Shape = "1-sqrt") -> jax.Array:
    """Return what is left of a decay from 1 to 0, exactly 1 before its start and exactly 0 after its end.

    The shapes are `1 - sqrt(x)`, `1 - x`, `(1 + cos(pi x)) / 2` (cosine) and `cos(pi x / 2)` (quarter-cosine). The
    slope of 1-sqrt at 0 is infinite, so do not differentiate in the progress.

    Args:
      progress: any shape; counts as 0 below 0 and as 1 above 1.
      shape: "1-sqrt", "linear", "cosine" or "quarter-cosine", or a function of [0, 1] on arrays that falls from 1 to 0.

    Returns:
      The shape of the progress, in [0, 1], float32 at least.

    Raises:
      ValueError: if the name of the shape is unknown.

    References:
      Hu et al., 2024 (arXiv 2412.17743).

    Examples:
      >>> remaining_fraction(jnp.array([-1.0, 0.0, 0.25, 1.0, 3.0])).tolist()
      [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    _check_shape_of_decay(shape)
    x = jnp.clip(real(progress), 0, 1)
    left = jnp.clip((SHAPES[shape] if isinstance(shape, str) else shape)(x), 0, 1)
    return jnp.where(x <= 0, 1, jnp.where(x >= 1, 0, left))


def warmup_stable_decay(
    peak: float | jax.Array,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    shape: Shape = "1-sqrt",
    *,
    start_value: float | jax.Array = 0.0,
    end_value: float | jax.Array = 0.0,
) -> optax.Schedule:
    """Return a schedule that rises linearly, stays at its peak, and decays until its last step.

    The run has S = warmup_steps + stable_steps + decay_steps steps. Step 0 has the start value, step `warmup_steps` the
    first peak, step S - 1 the end value, as have all after it. About a tenth of the run is enough for the decay. Linear
    pieces are those of `optax.linear_schedule`. Where steps are tokens, as in `by_tokens`, so are the three lengths.

    Args:
      peak: highest value, >= 0, may be traced.
      warmup_steps: steps below the peak, >= 0.
      stable_steps: steps at the peak before the decay, >= 0.
      decay_steps: steps of the decay, >= 0; 0 leaves it out, so that `decay_from` can add it later.
      shape: a shape of `remaining_fraction`, or "exponential", a constant factor from step to step.
      start_value: value of step 0 if there is a warm-up, >= 0, may be traced.
      end_value: value of the last step, >= 0, and > 0 with "exponential"; may be traced.

    Returns:
      `fn(step) -> []`, for `optax.inject_hyperparams` and every optimizer of optax.

    Raises:
      TypeError: if a length is not an int.
      ValueError: if a length or value is negative (a run that is shorter than its warm-up and decay has a negative
        stable part), the shape is unknown, or it is "exponential" and the end value 0.

    References:
      Hu et al., 2024 (arXiv 2404.06395).

    Examples:
      >>> schedule = warmup_stable_decay(0.5, 2, 2, 5)
      >>> [round(float(schedule(step)), 3) for step in range(10)]
      [0.0, 0.25, 0.5, 0.5, 0.5, 0.25, 0.146, 0.067, 0.0, 0.0]
    """
    check_number("peak", peak, 0)
    check_whole("warmup_steps", warmup_steps)
    check_whole("stable_steps", stable_steps)
    check_whole("decay_steps", decay_steps)
    check_number("start_value", start_value, 0)

    def rise_and_stay(step):
        done = jnp.clip(since(step, 0) / float(warmup_steps), 0, 1) if warmup_steps else 1.0
        return jnp.where(since(step, warmup_steps) < 0, start_value + (peak - start_value) * done, peak)

    if not decay_steps:
        return rise_and_stay
    return decay_from(rise_and_stay, warmup_steps + stable_steps, decay_steps, shape, end_value=end_value)


def decay_from(
    schedule: optax.Schedule,
    start: int,
    decay_steps: int,
    shape: Shape = "1-sqrt",
    *,
    end_value: float | jax.Array = 0.0,
    resume: bool = False,
) -> optax.Schedule:
    """Return a schedule that leaves another one at a step, and decays from its value there to an end value.

    Keep checkpoints of one stable run and branch a decay off any of them: load the one of step `start`, with the state
    of the optimizer, and go on with this schedule. A checkpoint that has decayed is no place to branch from.

    With `resume` the schedule is the other one again after the decay, so that decays can follow each other in one run:
    `decay_from(decay_from(stable, 900, 100, resume=True), 1900, 100)`.

    Args:
      schedule: `fn(step) -> []`, the stable run.
      start: first step of the decay, which still has the value of the stable run, >= 0.
      decay_steps: steps of the decay, >= 1; step `start + decay_steps - 1` has the end value. A decay of one step has
        only the end value.
      shape: a shape of `remaining_fraction`, or "exponential", a constant factor from step to step.
      end_value: value of the last step, >= 0, and > 0 with "exponential"; may be traced.
      resume: True for the stable run after the decay, False for the end value.

    Returns:
      `fn(step) -> []`.

    Raises:
      TypeError: if the start or the number of steps is not an int.
      ValueError: if one of them or the end value is out of range, or the shape is unknown.

    References:
      Hu et al., 2024 (arXiv 2404.06395).

    Examples:
      >>> branch = decay_from(optax.constant_schedule(1.0), 100, 11, "linear")
      >>> [round(float(branch(step)), 4) for step in (99, 100, 105, 110, 200)]
      [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    check_whole("start", start)
    check_count("decay_steps", decay_steps)
    exponential = isinstance(shape, str) and shape == "exponential"
    check_number("end_value", end_value, 0, open_low=exponential)
    if not exponential:
        _check_shape_of_decay(shape, "exponential")

    def fn(step):
        passed = since(step, start)
        progress = passed / float(decay_steps - 1) if decay_steps > 1 else passed + 1
        first = real(schedule(countable(start)))
        last = jnp.asarray(end_value, first.dtype)
        if exponential:
            value = first * (last / first) ** jnp.clip(progress, 0, 1)
        else:
            value = last + (first - last) * remaining_fraction(progress, shape)
        value = jnp.where(progress <= 0, first, jnp.where(progress >= 1, last, value))
        outside = passed < 0
        if resume:
            outside |= passed >= float(decay_steps)
        return jnp.where(outside, real(schedule(step)), value)

    return fn


def _check_shape_of_decay(shape: Any, *more: str) -> None:
    if not callable(shape):
        check_choice("shape", shape, (*SHAPES, *more))
