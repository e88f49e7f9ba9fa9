"""The critical batch size: fit it to the steps that batch sizes need, and see how it grows with models and data.

The steps to a goal are S(B) = a + b / B: a are needed whatever the batch, b examples whatever the steps. A batch of B
sees a B + b examples, and the critical batch size is the one that sees a fraction more, such as 20 %, than the batch
size that is best for the data.

To let one run at a constant learning rate stand for runs of every length, evaluate an average of its parameters
(exponential weight averaging), such as by optax: start at zero, let `average = optax.incremental_update(params,
average, 1 - decay)` follow every step, and evaluate `optax.tree.bias_correction(average, decay, step)`. A larger batch
wants a smaller decay, `ewa_decay_for_batch`.

References:
  Zhang et al., How does critical batch size scale in pre-training?, ICLR 2025 (arXiv 2410.21676).
  McCandlish et al., An empirical model of large-batch training, 2018 (arXiv 1812.06162).

Method: critical batch size
Paper: 2410.21676
Experiment: critical_batch, critical_batch_text
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import nonzero, num_different
from minibatch_jax.weights import weight_dtype

_STARTS = 128
_BEYOND = 7.0
"""how far the log of b / a may be outside the logs of the batch sizes"""
_ITERATIONS = 40


class StepsFit(NamedTuple):
    """Fit of S(B) = a + b / B.

    Attributes:
      a: `[]`, steps that no batch size saves.
      b: `[]`, examples that no number of steps saves.
      error: `[]`, root of the mean squared error of log S.
      determined: `[]` bool, whether three different batch sizes reached the goal and both parts show in the data.
        Where not, a or b may be a bound of the search, or NaN with fewer than two points.
    """

    a: jax.Array
    b: jax.Array
    error: jax.Array
    determined: jax.Array


class PowerLaw(NamedTuple):
    """Fit of y = coefficient * x^exponent, NaN from fewer than two different x.

    Attributes:
      coefficient: `[]`.
      exponent: `[]`.
    """

    coefficient: jax.Array
    exponent: jax.Array


def fit_critical_batch(batch_sizes: jax.Array, steps: jax.Array) -> StepsFit:
    """Fit S(B) = a + b / B to the logs of the steps by least squares, a and b above 0.

    The logs give all batch sizes the same say; steps themselves would be those of the smallest batch alone. For a fixed
    b / a the best a has a closed form, so that the search is over one number. Points that are not finite or not above 0
    do not count, such as the inf of a batch size that did not reach the goal.

    Args:
      batch_sizes: `[M]`, in any order.
      steps: `[M]`, steps to the goal.

    Returns:
      The fit, float32 (float64 for steps in float64).

    Raises:
      ValueError: if shapes do not match.

    References:
      Zhang et al., ICLR 2025 (arXiv 2410.21676).

    Examples:
      >>> fit = fit_critical_batch(jnp.array([16.0, 64.0, 256.0]), jnp.array([1010.0, 260.0, 72.5]))
      >>> round(float(fit.a), 2), round(float(fit.b)), bool(fit.determined)
      (10.0, 16000, True)
    """
    sizes, steps, there, count = _points("batch_sizes", batch_sizes, "steps", steps)
    log_steps, log_sizes = jnp.log(steps), jnp.log(sizes)
    low = jnp.min(jnp.where(there, log_sizes, jnp.inf)) - _BEYOND
    high = jnp.max(jnp.where(there, log_sizes, -jnp.inf)) + _BEYOND
    starts = low + (high - low) * jnp.linspace(0, 1, _STARTS, dtype=steps.dtype)
    errors = jnp.sum(_curve(starts, log_sizes, log_steps, there, count)[0] ** 2, axis=1)
    best = jnp.argmin(errors)
    width = (high - low) / (_STARTS - 1)
    begin = starts[best], jnp.clip(starts[best] - width, low), jnp.clip(starts[best] + width, max=high)
    rho, _, _ = fori_loop(0, _ITERATIONS, bind(_bisect, log_sizes, log_steps, there, count), begin)
    residuals, level = _curve(rho[None], log_sizes, log_steps, there, count)
    a = jnp.where(count >= 2, jnp.exp(level[0]), jnp.nan)
    margin = width / 2
    determined = (num_different(sizes[:, None], there) >= 3) & (rho > low + margin) & (rho < high - margin)
    return StepsFit(a, a * jnp.exp(rho), jnp.sqrt(jnp.sum(residuals**2) / nonzero(count)), determined)


def _curve(rho, log_sizes, log_steps, there, count):
    """Return the residuals `[R, M]` of log S for log(b / a) = rho `[R]`, 0 where no point is, and the best log a."""
    distance = log_steps[None] - jnp.logaddexp(0, rho[:, None] - log_sizes[None])
    level = jnp.sum(jnp.where(there[None], distance, 0), axis=1) / nonzero(count)
    return jnp.where(there[None], distance - level[:, None], 0), level


def _bisect(log_sizes, log_steps, there, count, _, bracket):
    """Halve the bracket of rho towards where the slope of the squared error changes its sign."""
    rho, low, high = bracket
    residuals, _ = _curve(rho[None], log_sizes, log_steps, there, count)
    slope = -jnp.sum(residuals[0] * jax.nn.sigmoid(rho - log_sizes))  # the level's share is 0: residuals sum to 0
    low, high = jnp.where(slope < 0, rho, low), jnp.where(slope < 0, high, rho)
    return (low + high) / 2, low, high


def _points(x_name, x, y_name, y):
    """Return both as floats, 1 where a point does not count, which points count, and how many."""
    check_shape(x_name, x, (None,))
    check_shape(y_name, y, jnp.shape(x))
    dtype = weight_dtype(jnp.result_type(y))
    x, y = jnp.asarray(x).astype(dtype), jnp.asarray(y).astype(dtype)
    there = jnp.isfinite(x) & (x > 0) & jnp.isfinite(y) & (y > 0)
    return jnp.where(there, x, 1), jnp.where(there, y, 1), there, jnp.sum(there).astype(dtype)


def critical_batch_size(
    a: jax.Array | float, b: jax.Array | float, optimal_batch: jax.Array | float, overhead: jax.Array | float = 0.2
) -> jax.Array:
    """Return the batch size that sees `1 + overhead` times the examples that the optimal batch size sees.

    Which batch size is optimal for the data, the smallest that the hardware fills or that training is stable with, is
    given and no result: the critical one grows with it.

    Args:
      a: steps that no batch size saves, above 0.
      b: examples that no number of steps saves, at least 0.
      optimal_batch: batch size that the overhead is counted from, above 0.
      overhead: fraction of more examples, at least 0.

    Returns:
      `(1 + overhead) optimal_batch + overhead b / a`, of the shape of the arguments; NaN where one is out of range.

    Raises:
      ValueError: if an argument known at trace time is out of range.

    References:
      Zhang et al., ICLR 2025 (arXiv 2410.21676).

    Examples:
      >>> round(float(critical_batch_size(10.0, 16000.0, 16)), 2)
      339.2
    """
    for name, value, is_open in (("a", a, True), ("b", b, False), ("optimal_batch", optimal_batch, True)):
        check_number(name, value, 0, open_low=is_open)
    check_number("overhead", overhead, 0)
    a, b, optimal_batch, overhead = (jnp.asarray(x, jnp.result_type(float)) for x in (a, b, optimal_batch, overhead))
    valid = (a > 0) & (b >= 0) & (optimal_batch > 0) & (overhead >= 0)
    return jnp.where(valid, (1 + overhead) * optimal_batch + overhead * b / a, jnp.nan)


def fit_power_law(x: jax.Array, y: jax.Array, *, space: str = "log") -> PowerLaw:
    """Fit y = coefficient * x^exponent by least squares, in the logs or to y itself.

    In the logs each point has the same relative error; to y itself the largest points count most. Points that are not
    finite or not positive do not count.

    Args:
      x: `[M]`, such as sizes of models or data.
      y: `[M]`, such as critical batch sizes.
      space: "log" or "plain".

    Returns:
      The law, float32 (float64 for y in float64).

    Raises:
      ValueError: if shapes do not match or the space is another.

    Examples:
      >>> law = fit_power_law(jnp.array([1.0, 4.0, 16.0]), jnp.array([3.0, 6.0, 12.0]))
      >>> round(float(law.coefficient), 4), round(float(law.exponent), 4)
      (3.0, 0.5)
    """
    check_choice("space", space, ("log", "plain"))
    x, y, there, count = _points("x", x, "y", y)
    mean = lambda values: jnp.sum(jnp.where(there, values, 0)) / nonzero(count)  # noqa: E731
    log_x, log_y = jnp.log(x), jnp.log(y)
    middle, level = mean(log_x), mean(log_y)
    from_middle = jnp.where(there, log_x - middle, 0)
    exponent = mean(from_middle * (log_y - level)) / nonzero(mean(from_middle**2))
    if space == "plain":
        start = jnp.zeros_like(exponent), exponent
        scaled = jnp.where(there, y * jnp.exp(-level), 0)
        shift, exponent = fori_loop(0, _ITERATIONS, bind(_gauss_newton, from_middle, scaled, there), start)
        level += shift
    known = jnp.max(jnp.where(there, x, -jnp.inf)) > jnp.min(jnp.where(there, x, jnp.inf))
    return PowerLaw(*(jnp.where(known, value, jnp.nan) for value in (jnp.exp(level - exponent * middle), exponent)))


def _gauss_newton(from_middle, y, there, _, law):
    """Improve log coefficient and exponent of y = exp(shift + exponent x); the step is never longer than 1."""
    shift, exponent = law
    fitted = jnp.where(there, jnp.exp(shift + exponent * from_middle), 0)
    residuals = y - fitted
    slopes = jnp.stack([fitted, fitted * from_middle])
    step = jnp.linalg.solve(slopes @ slopes.T + 1e-12 * jnp.eye(2, dtype=y.dtype), slopes @ residuals)
    step /= jnp.maximum(1, jnp.max(jnp.abs(step)))
    return shift + step[0], exponent + step[1]


def ewa_decay_for_batch(decay: Any, batch_size: float, new_batch_size: float) -> Any:
    """Return the decay of an average of parameters that forgets as many examples at another batch size.

    Args:
      decay: share of the old average in the new one at `batch_size`, in [0, 1].
      batch_size: above 0.
      new_batch_size: above 0.

    Returns:
      `decay^(new_batch_size / batch_size)`.

    Raises:
      ValueError: if an argument known at trace time is out of range.

    References:
      Zhang et al., ICLR 2025 (arXiv 2410.21676).

    Examples:
      >>> round(ewa_decay_for_batch(0.99, 256, 512), 4)
      0.9801
    """
    check_number("decay", decay, 0, 1)
    check_number("batch_size", batch_size, 0, open_low=True)
    check_number("new_batch_size", new_batch_size, 0, open_low=True)
    return decay ** (new_batch_size / batch_size)


def learning_rate_for_batch(largest: Any, batch_size: Any, noise_scale: Any) -> Any:
    """Return the learning rate of SGD for a batch size: in proportion to small ones, constant for large ones.

    Args:
      largest: learning rate that is best without noise, above 0.
      batch_size: above 0.
      noise_scale: batch size at which half of the largest rate is best, at least 0, such as `state.noise_scale` of
        `minibatch_jax.scores.noise_scale`.

    Returns:
      `largest / (1 + noise_scale / batch_size)`, NaN where an array is out of range.

    Raises:
      ValueError: if an argument known at trace time is out of range.

    References:
      McCandlish et al., 2018 (arXiv 1812.06162), equation 2.6.

    Examples:
      >>> learning_rate_for_batch(0.5, 64, 192)
      0.125
    """
    check_number("largest", largest, 0, open_low=True)
    check_number("batch_size", batch_size, 0, open_low=True)
    check_number("noise_scale", noise_scale, 0)
    rate: Any = largest / (1 + noise_scale / batch_size)
    if not isinstance(rate, jax.Array):
        return rate
    return jnp.where((largest > 0) & (batch_size > 0) & (noise_scale >= 0), rate, jnp.nan)
