"""Learning rates in tokens: the power schedule, which needs no horizon, and any schedule as a function of tokens seen.

Where the batch size changes while training, or the length of the sequences, the tokens seen are no multiple of the
step. `tokens_fn(step)` says how many there were before a step; `tokens_of_stages` makes one.

References:
  Shen et al., Power scheduler: a batch size and token number agnostic learning rate scheduler, 2024 (arXiv 2408.13359).

Method: power schedule, schedules of tokens
Paper: 2408.13359, 2404.06395
Experiment: power_horizons
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax._checks import check_number, check_whole
from minibatch_jax.schedules._steps import check_boundaries, real, since

TokensFn = Callable[[Any], Any]


def power_schedule(
    max_value: float | jax.Array = 0.02,
    *,
    a: float | jax.Array = 4.6,
    b: float | jax.Array = -0.51,
    batch_size: float | jax.Array | Callable[[Any], Any],
    sequence_length: int = 1,
    warmup_steps: int = 0,
    tokens_fn: TokensFn | None = None,
) -> optax.Schedule:
    """Return the learning rate `min(max_value, batch_size * a * n^b)` after n tokens, the same for every horizon.

    The best constant rate falls about as the inverse square root of the tokens and grows with the batch size, so a rate
    that does both at every step is near the best for every length of the run. A run may end in a decay, about a tenth
    of it: `decay_from(power_schedule(...), start, decay_steps)`.

    The published a and b are of models in the maximal-update parametrization: fit `a` again for others. Before the
    first batch n counts as the tokens of one batch. During the warm-up the rate rises linearly from 0 to the value of
    step `warmup_steps`, after the minimum.

    Args:
      max_value: highest rate, > 0, may be traced.
      a: factor, > 0, may be traced; the batch size is not in it.
      b: exponent, < 0, may be traced.
      batch_size: sequences in a batch, > 0; a function of the step where it changes, together with `tokens_fn`.
      sequence_length: tokens of a sequence, >= 1.
      warmup_steps: steps of the warm-up, >= 0.
      tokens_fn: `fn(step) -> []`, tokens seen before a step. By default step * batch_size * sequence_length.

    Returns:
      `fn(step) -> []`, NaN where the number of tokens is negative, as of an int32 that overflowed.

    Raises:
      TypeError: if a number is none, or the batch size is a function and `tokens_fn` is missing.
      ValueError: if a number is out of range, or the step or the number of tokens is known and negative.

    References:
      Shen et al., 2024 (arXiv 2408.13359).

    Examples:
      >>> schedule = power_schedule(batch_size=128, sequence_length=4096)
      >>> round(float(schedule(20_000)), 6)  # after 10.5 billion tokens
      0.004565
      >>> round(float(power_schedule(batch_size=256, sequence_length=4096)(10_000)), 6)
      0.00913
    """
    check_number("max_value", max_value, 0, open_low=True)
    check_number("a", a, 0, open_low=True)
    check_number("b", b, high=0, open_high=True)
    check_whole("warmup_steps", warmup_steps)
    check_number("sequence_length", sequence_length, 1)
    if callable(batch_size) and tokens_fn is None:
        raise TypeError("batch_size is a function and tokens_fn is None, wanted the tokens seen before each step.")
    if not callable(batch_size):
        check_number("batch_size", batch_size, 0, open_low=True)

    def beta(step):
        return real(batch_size(step) if callable(batch_size) else batch_size)

    def after_warmup(step):
        per_step = beta(step) * real(sequence_length)
        tokens = _checked(since(step, 0) * per_step if tokens_fn is None else tokens_fn(step))
        return jnp.minimum(max_value, beta(step) * a * jnp.maximum(tokens, per_step) ** b)

    def fn(step):
        if not warmup_steps:
            return after_warmup(step)
        risen = jnp.clip(_checked(since(step, 0)) / float(warmup_steps), 0, 1)
        return jnp.where(risen < 1, risen * after_warmup(warmup_steps), after_warmup(step))

    return fn


def by_tokens(schedule: optax.Schedule, tokens: float | TokensFn) -> optax.Schedule:
    """Return a schedule of the step from one of the number of tokens seen.

    Tokens are counted in float32, so that they do not overflow: 24 binary digits are right, which is enough for a rate
    and, beyond 2^24 = 16.8 million, not for a sum of single batches. Compute them from the step, as `tokens_of_stages`
    does. Schedules of this package take lengths of any size; optax's stop at 2^31, so give them millions of tokens.

    Args:
      schedule: `fn(tokens) -> []`, such as `warmup_stable_decay(peak, 10**9, 10**12, 10**11)`.
      tokens: tokens in each step, > 0, or `fn(step) -> []`, tokens seen before a step.

    Returns:
      `fn(step) -> []`, NaN where the number of tokens is negative, as of an int32 that overflowed.

    Raises:
      TypeError: if `tokens` is neither a number nor a function.
      ValueError: if it is not positive or, in a call, the number of tokens is known and negative.

    Examples:
      >>> from minibatch_jax.schedules import warmup_stable_decay
      >>> schedule = by_tokens(warmup_stable_decay(1.0, 10**10, 10**12, 10**11, "linear"), tokens=4e6)
      >>> [round(float(schedule(step)), 3) for step in (1250, 2500, 200_000, 266_250)]
      [0.5, 1.0, 1.0, 0.45]
    """
    if not callable(tokens):
        check_number("tokens", tokens, 0, open_low=True)

    def fn(step):
        seen = _checked(tokens(step) if callable(tokens) else since(step, 0) * real(tokens))
        return jnp.where(jnp.isnan(seen), jnp.nan, real(schedule(seen)))

    return fn


def tokens_of_stages(tokens_per_step: Sequence[float], boundaries: Sequence[int]) -> TokensFn:
    """Return the number of tokens seen before a step, where the batch grows at some steps.

    Args:
      tokens_per_step: S numbers > 0, tokens of a batch in each stage.
      boundaries: S - 1 steps, increasing, at which the next stage begins.

    Returns:
      `fn(step) -> []` float32, for `by_tokens` and `power_schedule`.

    Raises:
      TypeError: if a boundary is no int.
      ValueError: if numbers are not positive, the boundaries do not increase, or the lengths do not fit.

    Examples:
      >>> tokens = tokens_of_stages([1000, 2000], [10])
      >>> [float(tokens(step)) for step in (0, 10, 12)]
      [0.0, 10000.0, 14000.0]
    """
    check_boundaries(boundaries, len(tokens_per_step))
    edges = [0, *boundaries]
    for number in tokens_per_step:
        check_number("tokens_per_step", number, 0, open_low=True)
    lengths = np.diff(np.asarray(edges, np.float64))
    before = np.cumsum([0.0, *(lengths * np.asarray(tokens_per_step[:-1], np.float64))])

    def fn(step):
        total = since(step, 0) * float(tokens_per_step[0])
        for edge, number, seen in list(zip(edges, tokens_per_step, before))[1:]:
            passed = since(step, edge)
            total = jnp.where(passed < 0, total, passed * float(number) + float(seen))
        return total

    return fn


def minicpm_batch_tokens(loss: float | jax.Array) -> jax.Array:
    """Return the best number of tokens in a batch at a loss, 1.211e9 / loss^6.2393, as MiniCPM fitted it on C4.

    Args:
      loss: any shape, in nats for each token, > 0.

    Returns:
      The shape of the loss, in float32 at least; NaN where the loss is not above 0.

    Raises:
      ValueError: if the loss is a Python number that is not above 0.

    References:
      Hu et al., 2024 (arXiv 2404.06395).

    Examples:
      >>> [round(float(minicpm_batch_tokens(loss)), -3) for loss in (2.5, 4.0)]
      [3984000.0, 212000.0]
    """
    check_number("loss", loss, 0, open_low=True)
    loss = real(loss)
    return jnp.where(loss > 0, 1.2110e9 / loss**6.2393, jnp.nan)


def _checked(tokens: Any) -> jax.Array:
    """Return a count as a float, NaN if it is negative. Raise if it is known and negative."""
    if not isinstance(tokens, jax.core.Tracer) and np.any(np.asarray(tokens) < 0):
        raise ValueError(f"the number of tokens or steps is {tokens}, wanted at least 0.")
    tokens = real(tokens)
    return jnp.where(tokens < 0, jnp.nan, tokens)
