"""How the steps to a goal depend on the batch size: measure them, and tell the three regimes apart.

For every batch size the learning rate, and what else matters, is tuned by itself; what counts is the fewest steps after
which a held-out loss reaches a goal. While the batch is small, twice the batch halves the steps; then it saves less;
at last it saves nothing.

References:
  Shallue et al., Measuring the effects of data parallelism on neural network training, JMLR 2019 (arXiv 1811.03600).

Method: steps to result by batch size
Paper: 1811.03600
Experiment: critical_batch, critical_batch_text
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_choice, check_count, check_number, check_shape
from minibatch_jax.weights import weight_dtype


class ScalingRegimes(NamedTuple):
    """Where the regimes of batch sizes end and begin.

    Attributes:
      perfect_until: `[]`, largest batch size that, like all smaller ones, needs hardly more steps than perfect scaling.
      maximal_from: `[]`, smallest batch size beyond which larger ones save hardly any steps; inf if even the last
        increase saves some.
    """

    perfect_until: jax.Array
    maximal_from: jax.Array


def steps_to_result(
    steps: jax.Array,
    values: jax.Array,
    goal: jax.Array | float,
    *,
    mode: str = "min",
    consecutive: int = 1,
    interpolate: bool = False,
) -> jax.Array:
    """Return the step at which a run first reaches a goal; inf if it does not.

    Use one rule for all batch sizes: the first value below a goal is optimistic for a noisy curve, which `consecutive`
    mends, and rare evaluations let fast runs look alike, which `interpolate` mends. A value that is not finite does not
    reach the goal. The least over trials and the median over seeds keep their meaning with inf; a mean does not.

    Args:
      steps: `[E]`, increasing, the steps of the evaluations.
      values: `[E]`, what was evaluated.
      goal: `[]`, the value to reach.
      mode: "min" if low values are good, "max" if high ones are.
      consecutive: how many evaluations in a row must reach the goal, static; the first of them counts.
      interpolate: whether to return the step at which a line from the evaluation before crosses the goal.

    Returns:
      `[]`, float32 (float64 for values in float64).

    Raises:
      TypeError: if `consecutive` is not a static int.
      ValueError: if shapes do not match, `mode` is another, or `consecutive` is not in [1, E].

    Examples:
      >>> steps, losses = jnp.array([10, 20, 30, 40]), jnp.array([0.9, 0.4, 0.6, 0.3])
      >>> float(steps_to_result(steps, losses, 0.5)), float(steps_to_result(steps, losses, 0.5, interpolate=True))
      (20.0, 18.0)
      >>> float(steps_to_result(steps, losses, 0.5, consecutive=2))
      inf
    """
    check_shape("values", values, (None,))
    check_shape("steps", steps, jnp.shape(values))
    check_choice("mode", mode, ("min", "max"))
    check_count("consecutive", consecutive, jnp.shape(values)[0], "the number of evaluations")
    dtype = weight_dtype(jnp.result_type(values))
    at, values, goal = (jnp.asarray(x).astype(dtype) for x in (steps, values, goal))
    if mode == "max":
        values, goal = -values, -goal
    reached = jnp.isfinite(values) & (values <= goal)
    runs = jnp.stack([jnp.roll(reached, -i) for i in range(consecutive)]).all(axis=0)
    runs &= jnp.arange(len(at)) <= len(at) - consecutive
    first = jnp.argmax(runs)
    step = at[first]
    if interpolate:
        before = jnp.maximum(first - 1, 0)
        drop = values[before] - values[first]
        known = (first > 0) & jnp.isfinite(drop) & (drop > 0)
        share = jnp.where(known, (values[before] - goal) / jnp.where(known, drop, 1), 1)
        step = at[before] + jnp.clip(share, 0, 1) * (step - at[before])
    return jnp.where(jnp.any(runs), step, jnp.inf)


def best_over_trials(steps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return which trial of a batch size needs the fewest steps, and these steps.

    Args:
      steps: `[..., T]`, of `steps_to_result`; inf or NaN for a trial that did not reach the goal.

    Returns:
      The index `[...]` int32, the first of equal ones, -1 if no trial reached the goal; and its steps `[...]`.

    Raises:
      ValueError: if there is no trial.

    Examples:
      >>> index, fewest = best_over_trials(jnp.array([[jnp.inf, 40.0, 30.0], [jnp.inf, jnp.inf, jnp.inf]]))
      >>> index.tolist(), fewest.tolist()
      ([2, -1], [30.0, inf])
    """
    if jnp.ndim(steps) == 0 or jnp.shape(steps)[-1] == 0:
        raise ValueError(f"steps has shape {list(jnp.shape(steps))}, wanted at least one trial on the last axis.")
    usable = jnp.where(jnp.isfinite(steps), steps, jnp.inf)
    fewest = jnp.min(usable, axis=-1)
    return jnp.where(jnp.isfinite(fewest), jnp.argmin(usable, axis=-1), -1).astype(jnp.int32), fewest


def perfect_scaling_line(batch_sizes: Sequence[float] | np.ndarray, steps: jax.Array) -> jax.Array:
    """Return the steps that each batch size would need if twice the batch halved the steps, from the smallest one on.

    Args:
      batch_sizes: `[M]`, increasing, known at trace time.
      steps: `[M]`, steps to the goal; inf where it was not reached. The line starts at the first finite one.

    Returns:
      `[M]`, float32 (float64 for steps in float64); NaN if no step is finite.

    Raises:
      TypeError: if the batch sizes are no numbers known at trace time.
      ValueError: if shapes do not match, or the batch sizes are not positive and increasing.

    Examples:
      >>> perfect_scaling_line([8, 16, 64], jnp.array([400.0, 210.0, 90.0])).tolist()
      [400.0, 200.0, 50.0]
    """
    sizes = increasing_sizes(batch_sizes)
    check_shape("steps", steps, sizes.shape)
    steps = steps.astype(weight_dtype(steps.dtype))
    usable = jnp.isfinite(steps) & (steps > 0)
    first = jnp.argmax(usable)
    examples = jnp.where(jnp.any(usable), steps[first] * jnp.asarray(sizes, steps.dtype)[first], jnp.nan)
    return examples / jnp.asarray(sizes, steps.dtype)


def scaling_regimes(
    batch_sizes: Sequence[float] | np.ndarray, steps: jax.Array, *, tolerance: float = 0.2, least_gain: float = 0.05
) -> ScalingRegimes:
    """Return up to which batch size scaling is perfect, and beyond which a larger batch saves nothing.

    A batch size without finite steps ends perfect scaling, and saves nothing.

    Args:
      batch_sizes: `[M]`, increasing, known at trace time.
      steps: `[M]`, steps to the goal, inf where it was not reached.
      tolerance: how many more steps than on the line of perfect scaling are still perfect, as a fraction, at least 0.
      least_gain: fraction of the steps that a doubling of the batch must save, in (0, 1).

    Returns:
      The two batch sizes. The first is NaN if the smallest batch did not reach the goal.

    Raises:
      TypeError: if the batch sizes are no numbers known at trace time.
      ValueError: if shapes do not match, batch sizes are not positive and increasing, or a fraction is out of range.

    Examples:
      >>> sizes = [8, 16, 32, 64, 128, 256]
      >>> found = scaling_regimes(sizes, jnp.array([400.0, 205.0, 140.0, 110.0, 108.0, 107.0]))
      >>> float(found.perfect_until), float(found.maximal_from)
      (16.0, 64.0)
    """
    check_number("tolerance", tolerance, 0)
    check_number("least_gain", least_gain, 0, 1, open_low=True, open_high=True)
    sizes = increasing_sizes(batch_sizes)
    line = perfect_scaling_line(batch_sizes, steps)
    steps = jnp.where(jnp.isfinite(steps) & (steps > 0), steps.astype(line.dtype), jnp.inf)
    perfect = jnp.cumprod((steps <= (1 + tolerance) * line).astype(jnp.int32)) > 0
    at = jnp.asarray(sizes, line.dtype)
    until = jnp.max(jnp.where(perfect, at, -jnp.inf))
    ratio = jnp.where(jnp.isfinite(steps[1:]), steps[1:] / steps[:-1], jnp.inf)
    gains = ratio ** (1 / jnp.log2(at[1:] / at[:-1])) <= 1 - least_gain
    none_after = jnp.concatenate([jnp.cumsum(gains[::-1].astype(jnp.int32))[::-1] == 0, jnp.zeros(1, bool)])
    return ScalingRegimes(
        jnp.where(perfect[0] & jnp.isfinite(until), until, jnp.nan), jnp.min(jnp.where(none_after, at, jnp.inf))
    )


def edge_of_search_space(
    values: jax.Array, low: jax.Array | float, high: jax.Array | float, *, margin: float = 0.05
) -> jax.Array:
    """Return at which edge of the search space the best trial lies: then widen the space and repeat.

    Args:
      values: `[D]`, the best trial's values, on the scale that was searched, such as logarithms.
      low: `[D]` or one number, lower ends.
      high: `[D]` or one number, upper ends.
      margin: how near to an end is at the edge, as a fraction of the range, in [0, 0.5).

    Returns:
      `[D]` int32: -1 at the lower edge, 1 at the upper one, 0 inside. A value that is not finite is at the upper edge.

    Raises:
      ValueError: if shapes do not match, or the margin is out of range.

    Examples:
      >>> edge_of_search_space(jnp.log2(jnp.array([0.25, 1.0, 8.0])), -2.0, 3.0).tolist()
      [-1, 0, 1]
    """
    check_shape("values", values, (None,))
    check_number("margin", margin, 0, 0.5, open_high=True)
    ends = [jnp.asarray(x, values.dtype) for x in (low, high)]
    for name, end in zip(("low", "high"), ends):
        if end.ndim:
            check_shape(name, end, values.shape)
    low, high = (jnp.broadcast_to(end, values.shape) for end in ends)
    near = margin * (high - low)
    inside = (values > low + near) & (values < high - near)
    return jnp.where(inside, 0, jnp.where(values <= low + near, -1, 1)).astype(jnp.int32)


def halton_points(count: int, dimensions: int) -> jax.Array:
    """Return quasi-random points of the unit cube, for trials that cover a search space evenly.

    Coordinate d of point i mirrors the digits of i + 1 in the d-th prime at the point. Scale the coordinates to
    logarithms where a space is searched on that scale. Beyond some eight dimensions the first points lie on lines.

    Args:
      count: number of points, static.
      dimensions: of a point, at most 32, static.

    Returns:
      `[count, dimensions]` float32 in (0, 1).

    Raises:
      TypeError: if an argument is no static int.
      ValueError: if one is below 1, or there are more than 32 dimensions.

    References:
      Halton, On the efficiency of certain quasi-random sequences of points in evaluating multi-dimensional integrals,
      1960.

    Examples:
      >>> jnp.round(halton_points(3, 2) * 16).astype(int).tolist()
      [[8, 5], [4, 11], [12, 2]]
    """
    check_count("count", count)
    check_count("dimensions", dimensions, 32, "the number of primes")
    primes = [n for n in range(2, 138) if all(n % m for m in range(2, math.isqrt(n) + 1))][:dimensions]
    points = np.zeros((count, dimensions))
    for column, base in enumerate(primes):
        left, digit = np.arange(1, count + 1), 1.0
        while left.any():
            digit /= base
            points[:, column] += digit * (left % base)
            left //= base
    return jnp.asarray(points, jnp.float32)


def increasing_sizes(batch_sizes: Any) -> np.ndarray:
    """Return batch sizes as an array. Raise unless they are positive, increasing and known at trace time."""
    if isinstance(batch_sizes, jax.core.Tracer):
        raise TypeError("batch_sizes is traced, wanted numbers known at trace time, such as a tuple.")
    sizes = np.asarray(batch_sizes, float)
    if sizes.ndim != 1 or not sizes.size or not (sizes > 0).all() or not (np.diff(sizes) > 0).all():
        raise ValueError(f"batch_sizes is {batch_sizes}, wanted positive, increasing numbers.")
    return sizes
