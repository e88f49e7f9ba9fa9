"""Batches that grow while training: steps written in tokens, and a transformation that keeps the first examples.

The array has the size of the largest batch all the time, and what is beyond the batch of a step has weight 0, so that
one program serves all sizes. This saves no computation by itself. `optax.microbatch(num_real_microbatches=...)` does,
and `value_and_grad(gather=k)` where the run is cut into one program for each size.

References:
  Smith et al., Don't decay the learning rate, increase the batch size, 2017 (arXiv 1711.00489).

Method: batch-size warm-up
Paper: 1711.00489
Experiment: large_batches
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_count, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.schedules._steps import check_boundaries, real, since
from minibatch_jax.weights import weight_transformation

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_STAGE = re.compile(r"(\d+(?:\.\d+)?)([KMBT]?):(\d+)")


class BatchStages(NamedTuple):
    """Which batch size holds from which step on.

    Attributes:
      batch_sizes: S batch sizes.
      boundaries: S - 1 steps at which the next one begins.
    """

    batch_sizes: tuple[int, ...]
    boundaries: tuple[int, ...]


class ScheduledState(NamedTuple):
    """State of `keep_scheduled`.

    Attributes:
      step: `[]` int32, batches so far.
    """

    step: jax.Array


def batch_stages(text: str, sequence_length: int = 1) -> BatchStages:
    """Return the steps at which the batch grows, from a list such as "0:768 250B:1536" in tokens.

    A stage begins with the first step before which its number of tokens has been seen. It is computed in closed form,
    so that no number of tokens is too large.

    Args:
      text: pairs `tokens:batch size`, the first from 0 on; K, M, B and T stand for 10^3, 10^6, 10^9 and 10^12.
      sequence_length: tokens of an example, >= 1.

    Returns:
      Batch sizes and boundaries, for `batch_size_schedule` and, with tokens in place of examples, `tokens_of_stages`.

    Raises:
      TypeError: if the text is none or the sequence length no int.
      ValueError: if the text has another form, does not begin at 0 or increase, or two stages begin in one step.

    Examples:
      >>> batch_stages("0:768 250B:1536", sequence_length=4096)
      BatchStages(batch_sizes=(768, 1536), boundaries=(79473,))
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {text!r}, wanted pairs such as '0:768 250B:1536'.")
    check_count("sequence_length", sequence_length)
    found = [_STAGE.fullmatch(pair) for pair in text.split()]
    if not found or not all(found):
        raise ValueError(f"text is {text!r}, wanted pairs of tokens and batch size, such as '0:768 250B:1536'.")
    starts = [Fraction(pair[1]) * _UNITS[pair[2]] for pair in found if pair]
    sizes = tuple(int(pair[3]) for pair in found if pair)
    if starts[0] != 0:
        raise ValueError(f"text is {text!r}, wanted its first pair to begin at 0 tokens.")
    boundaries, step, seen = [], 0, 0
    for size, start in zip(sizes, starts[1:]):
        check_count("the batch size", size)
        steps = -((seen - start) // (size * sequence_length))
        if steps < 1:
            raise ValueError(f"text is {text!r}, wanted each stage to begin at least one step after the one before.")
        step, seen = step + steps, seen + steps * size * sequence_length
        boundaries.append(step)
    check_count("the batch size", sizes[-1])
    return BatchStages(sizes, tuple(boundaries))


def batch_size_schedule(batch_sizes: Sequence[int], boundaries: Sequence[int]) -> optax.Schedule:
    """Return the batch size as a function of the step.

    Args:
      batch_sizes: S batch sizes, >= 1.
      boundaries: S - 1 steps, increasing, at which the next one begins.

    Returns:
      `fn(step) -> []` int32, for `keep_scheduled`, `power_schedule` and the scaling rules.

    Raises:
      TypeError: if a number is no int.
      ValueError: if a batch size is below 1, the boundaries do not increase, or the lengths do not fit.

    Examples:
      >>> size = batch_size_schedule(*batch_stages("0:32 1K:64"))
      >>> [int(size(step)) for step in (0, 31, 32)]
      [32, 32, 64]
    """
    check_boundaries(boundaries, len(batch_sizes))
    for size in batch_sizes:
        check_count("batch_sizes", size)

    def fn(step: Any) -> jax.Array:
        size = jnp.asarray(batch_sizes[0], jnp.int32)
        for boundary, following in zip(boundaries, batch_sizes[1:]):
            size = jnp.where(since(step, boundary) < 0, size, following)
        return size

    return fn


def keep_scheduled(batch_size: int | jax.Array | optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Keep the first examples of a batch, as many as a schedule says, rescaled so that the weights have the same sum.

    Only examples that came with a weight are counted, so put it first in a chain, before a selection. A batch size that
    is larger than the batch keeps all; one below 1, or NaN, keeps none. Fractions are rounded down.

    Args:
      batch_size: examples to keep, or `fn(step) -> []`, where the step is the number of batches before.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if the batch size is neither a number nor a function.
      ValueError: if it is a number below 1 or, in `init` and `update`, the weights are not `[B]`.

    References:
      Smith et al., 2017 (arXiv 1711.00489).

    Examples:
      >>> tx = keep_scheduled(batch_size_schedule([1, 4], [1]))
      >>> weights = jnp.full(4, 0.25)
      >>> first, state = tx.update(weights, tx.init(weights))
      >>> first.tolist(), tx.update(weights, state)[0].tolist()
      ([1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25])
    """
    if not callable(batch_size):
        check_count("batch_size", batch_size, traced=True)

    def init(weights):
        check_shape("weights", weights, (None,))
        return ScheduledState(jnp.zeros((), jnp.int32))

    def update(weights, state, params=None, **extra_args):
        check_shape("weights", weights, (None,))
        wanted = jnp.floor(real(batch_size(state.step) if callable(batch_size) else batch_size))
        place = jnp.cumsum(weights != 0, dtype=jnp.int32)
        kept = jnp.where(place.astype(wanted.dtype) <= wanted, weights, 0)
        kept *= jnp.sum(weights) / nonzero(jnp.sum(kept))
        return kept, ScheduledState(jnp.asarray(optax.safe_increment(state.step)))

    return weight_transformation(init, update)
