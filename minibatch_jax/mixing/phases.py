"""Mixtures of domains that change at given steps: phases, ramps, and annealing together with the learning rate.

The last part of a run, where the learning rate decays, shapes a model most: spend scarce good data there, and broad
data before. A mixture schedule is `fn(step) -> [K]`, proportions that sum to 1. Compare schedules at equal total
exposure of the good data, or the gain is just more good data.

References:
  Feng et al., Maximize your data's potential: enhancing LLM accuracy with two-phase pretraining, 2024
    (arXiv 2412.15285).
  Hu et al., YuLan-Mini: an open data-efficient language model, 2024 (arXiv 2412.17743).

Method: two-phase and staged mixtures
Paper: 2412.15285, 2412.17743
Experiment: two_phase_mixture
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax._checks import check_choice, check_count, check_floating, check_number, check_shape, check_whole
from minibatch_jax._vector import nonzero
from minibatch_jax.mixing._mixtures import check_mixture
from minibatch_jax.schedules._steps import check_increasing, countable, real, since, whole
from minibatch_jax.schedules.decays import Shape, remaining_fraction, warmup_stable_decay

Mixture = Callable[[Any], jax.Array]


def mixture_schedule(table: jax.Array, boundaries: Sequence[int] | jax.Array, interpolate: str = "step") -> Mixture:
    """Return a schedule of S mixtures, one after the other, or one sliding into the next.

    With "step" row i + 1 of the table begins at step `boundaries[i]`. With "linear" it is reached there, on a straight
    line from row 0 at step 0; after the last boundary the last row stays. Counts of tokens must be divided by their sum
    first. Steps may be tokens seen, as floats; the boundaries are then tokens, too.

    Args:
      table: `[S, K]`, each row at least 0 with sum 1.
      boundaries: S - 1 steps above 0, increasing.
      interpolate: "step" or "linear".

    Returns:
      `fn(step) -> [K]`.

    Raises:
      TypeError: if the table is not floating point.
      ValueError: if shapes do not fit or, of concrete arrays, a row does not sum to 1 or boundaries do not increase.

    References:
      Hu et al., 2024 (arXiv 2412.17743).

    Examples:
      >>> table = jnp.array([[1.0, 0.0], [0.5, 0.5]])
      >>> [mixture_schedule(table, [100])(step).tolist() for step in (99, 100)]
      [[1.0, 0.0], [0.5, 0.5]]
      >>> mixture_schedule(table, [100], "linear")(50).tolist()
      [0.75, 0.25]
    """
    check_choice("interpolate", interpolate, ("step", "linear"))
    table = jnp.asarray(table)
    check_shape("table", table, (None, None))
    check_floating("table", table)
    edges = boundaries if isinstance(boundaries, jax.core.Tracer) else np.asarray(boundaries).reshape(-1)
    if len(edges) != len(table) - 1:
        raise ValueError(
            f"boundaries has {len(edges)} steps, wanted {len(table) - 1}, one less than rows of the table."
        )
    if not isinstance(table, jax.core.Tracer):
        for number, row in enumerate(table):
            check_mixture(f"table[{number}]", row)
    if not isinstance(edges, jax.core.Tracer):
        check_increasing(edges)
    table = real(table)

    def fn(step):
        step = countable(step)
        knots = _like(step, edges)
        stage = jnp.sum(step >= knots, dtype=jnp.int32)
        if interpolate == "step" or len(table) == 1:
            return table[stage]
        left = jnp.concatenate([jnp.zeros_like(knots[:1]), knots])
        later = jnp.minimum(stage + 1, len(table) - 1)
        length = nonzero(real(left[later] - left[stage]))
        return table[stage] + (table[later] - table[stage]) * (real(step - left[stage]) / length)

    return fn


def two_phase_mixture(first: jax.Array, second: jax.Array, switch: int, ramp: int = 0) -> Mixture:
    """Return a schedule of two mixtures, that of the second phase from step `switch` on.

    A ramp moves in a straight line, half of it before the switch and half after it, so that every domain is seen as
    often in total as without a ramp.

    Args:
      first: `[K]`, at least 0 with sum 1.
      second: `[K]`, the same.
      switch: first step of the second phase, >= 0.
      ramp: steps of the transition, at most twice `switch`; 0 and 1 are an abrupt switch.

    Returns:
      `fn(step) -> [K]`.

    Raises:
      TypeError: if a mixture is not floating point or a number of steps not an int.
      ValueError: if shapes differ, a concrete mixture does not sum to 1, or a number of steps is out of range.

    References:
      Feng et al., 2024 (arXiv 2412.15285).

    Examples:
      >>> mixture = two_phase_mixture(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), 60, ramp=4)
      >>> [round(float(mixture(step)[1]), 3) for step in range(57, 63)]
      [0.0, 0.125, 0.375, 0.625, 0.875, 1.0]
    """
    first, second = _two_mixtures(first, second)
    check_whole("switch", switch)
    check_whole("ramp", ramp)
    if ramp > 2 * switch:
        raise ValueError(f"ramp is {ramp}, wanted at most {2 * switch} (twice the switch).")

    def fn(step):
        passed = since(step, switch)
        moved = jnp.clip((passed + 0.5) / float(ramp) + 0.5, 0, 1) if ramp else jnp.where(passed < 0, 0.0, 1.0)
        return _between(first, second, moved)

    return fn


def annealed_mixture(
    first: jax.Array, second: jax.Array, start: int, num_steps: int, shape: Shape = "linear"
) -> Mixture:
    """Return a schedule that goes from one mixture to another in the shape of a learning-rate decay.

    With start, number and shape of the steps of `decay_from`, the mixture moves just as the learning rate falls.

    Args:
      first: `[K]`, at least 0 with sum 1, up to step `start`.
      second: `[K]`, the same, from step `start + num_steps - 1` on.
      start: >= 0.
      num_steps: steps from the first mixture to the second, both included, >= 2.
      shape: a shape of `remaining_fraction`: how much of the first mixture is left.

    Returns:
      `fn(step) -> [K]`.

    Raises:
      TypeError: if a mixture is not floating point or a number of steps not an int.
      ValueError: if shapes differ, a concrete mixture does not sum to 1, or a number or the shape is out of range.

    Examples:
      >>> mixture = annealed_mixture(jnp.array([1.0, 0.0]), jnp.array([0.2, 0.8]), 10, 5)
      >>> [round(float(mixture(step)[1]), 3) for step in (9, 10, 12, 14, 15)]
      [0.0, 0.0, 0.4, 0.8, 0.8]
    """
    first, second = _two_mixtures(first, second)
    check_whole("start", start)
    check_count("num_steps", num_steps)
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}, wanted at least 2.")
    remaining_fraction(0.0, shape)  # an unknown shape raises here, not at the first step

    def fn(step):
        return _between(first, second, 1 - remaining_fraction(since(step, start) / float(num_steps - 1), shape))

    return fn


class TwoPhases(NamedTuple):
    """What `two_phase` returns.

    Attributes:
      mixture: `fn(step) -> [K]`.
      learning_rate: `fn(step) -> []`.
      switch: first step of the second mixture.
      decay: first step of the decay of the learning rate.
    """

    mixture: Mixture
    learning_rate: optax.Schedule
    switch: int
    decay: int


def two_phase(
    num_steps: int,
    first: jax.Array,
    second: jax.Array,
    peak: float | jax.Array,
    *,
    switch: float = 0.6,
    decay: float = 0.9,
    warmup_steps: int = 0,
    ramp: int = 0,
    shape: Shape = "1-sqrt",
    end_value: float | jax.Array = 0.0,
) -> TwoPhases:
    """Return the mixture and the learning rate of a run in two phases, which are tied to one number of steps.

    The second mixture begins at `switch` and the learning rate falls from `decay` on: two places, not one.

    Args:
      num_steps: steps of the run, >= 1.
      first: `[K]`, at least 0 with sum 1, mixture of the first phase.
      second: `[K]`, mixture of the second phase.
      peak: highest learning rate, >= 0, may be traced.
      switch: fraction of the run before the second phase, in [0, 1].
      decay: fraction of the run before the decay, in [0, 1].
      warmup_steps: steps below the peak.
      ramp: steps of the transition between the mixtures, around the switch.
      shape: of the decay, as in `warmup_stable_decay`.
      end_value: learning rate of the last step, may be traced.

    Returns:
      `TwoPhases(mixture, learning_rate, switch, decay)`, the last two in steps.

    Raises:
      TypeError: if a mixture is not floating point, a number none or a number of steps not an int.
      ValueError: if shapes differ, a concrete mixture does not sum to 1, a number is out of range, or the warm-up is
        longer than the part before the decay.

    References:
      Feng et al., 2024 (arXiv 2412.15285).

    Examples:
      >>> plan = two_phase(1000, jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5]), peak=0.01)
      >>> plan.switch, plan.decay, plan.mixture(600).tolist(), float(plan.learning_rate(999))
      (600, 900, [0.5, 0.5], 0.0)
    """
    check_count("num_steps", num_steps)
    check_number("switch", switch, 0, 1)
    check_number("decay", decay, 0, 1)
    check_whole("warmup_steps", warmup_steps)
    switch_step, decay_step = round(switch * num_steps), round(decay * num_steps)
    if warmup_steps > decay_step:
        raise ValueError(f"warmup_steps is {warmup_steps}, wanted at most {decay_step} (the steps before the decay).")
    lengths = warmup_steps, decay_step - warmup_steps, num_steps - decay_step
    learning_rate = warmup_stable_decay(peak, *lengths, shape, end_value=end_value)
    return TwoPhases(two_phase_mixture(first, second, switch_step, ramp), learning_rate, switch_step, decay_step)


def _two_mixtures(first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    first, second = jnp.asarray(first), jnp.asarray(second)
    check_mixture("first", first)
    check_mixture("second", second, len(first))
    return real(first), real(second)


def _between(first: jax.Array, second: jax.Array, moved: jax.Array) -> jax.Array:
    """Return the mixture on the line between two, exactly either of them at its ends."""
    inside = first + (second - first) * moved
    return jnp.where(moved <= 0, first, jnp.where(moved >= 1, second, inside))


def _like(step: jax.Array, edges: Any) -> jax.Array:
    return jnp.asarray(edges, step.dtype) if jnp.issubdtype(step.dtype, jnp.floating) else whole(edges)
