"""How the loss of one recipe falls with scale, to extrapolate small runs to the size that is planned.

The laws are `e^a / C^alpha + E` of compute C, with or without the limit E, and `e^a / N^alpha + e^b / D^beta + E` of
parameters N and tokens D: the baselines that decisions from runs of a single scale are compared with. With three sizes,
E is not determined. A second step, `fit_accuracy_curve`, maps losses to the accuracy of a task. Curves of many mixtures
that share an exponent are fitted by `minibatch_jax.mixing.size_laws`.

References:
  Magnusson et al., DataDecide: how to predict best pretraining data with small experiments, ICML 2025
  (arXiv 2504.11393).
  Hoffmann et al., Training compute-optimal large language models, NeurIPS 2022 (arXiv 2203.15556), for the fit.

Method: Decisions from small runs (DataDecide)
Paper: 2504.11393
Experiment: small_run_decisions
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax._vector import num_different
from minibatch_jax.mixing._fits import huber_fit, spread
from minibatch_jax.weights import weight_dtype

START_EXPONENTS = (0.05, 0.2, 0.5)
START_LIMITS = (0.05, 0.5, 0.9)
"""as fractions of the lowest loss"""


class LossLaw(NamedTuple):
    """Law `sum_t e^log_scales[t] / size_t^exponents[t] + limit` of T measures of size.

    Attributes:
      log_scales: `[T]`, the letters a and b of the formulas.
      exponents: `[T]`, in (0, 1).
      limit: `[]`, E, the loss that no size goes below; 0 in a law without.
      loss: `[]`, sum of the Huber losses of the fit.
      converged: `[]` bool, whether the fit is at a minimum, there are more points than numbers of the law, and at least
        as many different sizes.
    """

    log_scales: jax.Array
    exponents: jax.Array
    limit: jax.Array
    loss: jax.Array
    converged: jax.Array


class AccuracyCurve(NamedTuple):
    """Curve `low + (high - low) / (1 + exp(slope * (loss - middle)))`.

    Attributes:
      low: `[]`, in (0, 1), accuracy at high losses, such as chance.
      high: `[]`, in (low, 1), accuracy at low losses.
      slope: `[]`, positive.
      middle: `[]`, loss of the mean of low and high.
      error: `[]`, root of the mean squared error of the accuracies.
      converged: `[]` bool, whether the fit is at a minimum, and there are more than four points and four losses.
    """

    low: jax.Array
    high: jax.Array
    slope: jax.Array
    middle: jax.Array
    error: jax.Array
    converged: jax.Array


def fit_loss_law(
    sizes: jax.Array,
    losses: jax.Array,
    *,
    limit: bool = True,
    delta: float | jax.Array = 1e-3,
    max_iterations: int = 300,
) -> LossLaw:
    """Fit a loss law by the Huber loss of the logarithm of predicted over measured losses.

    Sizes `[M]` of compute give the law of 3 numbers, or of 2 without the limit; `[M, 2]` of parameters and tokens the
    one of 5. The fit begins from 9 or 27 places, without randomness. `vmap` over losses fits many recipes.

    Args:
      sizes: `[M]` or `[M, T]`, floating point, positive.
      losses: `[M]`, floating point, positive. A loss that is not finite or not positive, or has such a size, does not
        count.
      limit: False for a law whose loss falls to 0.
      delta: residual at which the Huber loss goes from a parabola to a line, positive, may be traced.
      max_iterations: of each start, static.

    Returns:
      The law, float32 (float64 if the losses are); not `converged` with fewer usable points than one more than it has
      numbers, or fewer different sizes than it has numbers, where some of its numbers are arbitrary.

    Raises:
      TypeError: if an input is not floating point or a count is not a static int.
      ValueError: if shapes do not match or a number is out of range.

    References:
      Magnusson et al., 2025 (arXiv 2504.11393); Hoffmann et al., 2022 (arXiv 2203.15556).

    Examples:
      >>> compute = jnp.array([1.0, 4.0, 16.0, 64.0, 256.0])
      >>> law = fit_loss_law(compute, 2.0 * compute**-0.5 + 3.0)
      >>> round(float(law.exponents[0]), 2), round(float(law.limit), 2), bool(law.converged)
      (0.5, 3.0, True)
      >>> round(float(predict_loss(law, 1024.0)), 3)
      3.062
    """
    check_shape("sizes", sizes, (None, None) if jnp.ndim(sizes) == 2 else (None,))
    check_floating("sizes", sizes)
    check_shape("losses", losses, sizes.shape[:1])
    check_floating("losses", losses)
    check_number("delta", delta, 0, open_low=True)
    check_count("max_iterations", max_iterations)
    dtype = weight_dtype(losses.dtype)
    sizes, losses = sizes.reshape(sizes.shape[0], -1).astype(dtype), losses.astype(dtype)
    counts = jnp.all((sizes > 0) & jnp.isfinite(sizes), axis=1) & (losses > 0) & jnp.isfinite(losses)
    weights = counts.astype(dtype)
    number = jnp.sum(counts, dtype=jnp.int32)
    logs = jnp.where(counts[:, None], jnp.log(jnp.where(counts[:, None], sizes, 1)), 0)
    middle = jnp.sum(logs, axis=0) / jnp.maximum(number, 1).astype(dtype)
    logs = jnp.where(counts[:, None], logs - middle[None], 0)
    targets = jnp.log(jnp.where(counts, losses, 1))
    unit = spread(targets, weights)
    lowest = jnp.min(jnp.where(counts, targets, jnp.inf))
    starts = _starts(jnp.where(number > 0, lowest, 0), sizes.shape[1], limit)
    penalty = jnp.zeros((starts.shape[1], starts.shape[1]), dtype)
    scaled = jnp.asarray(delta, dtype) / unit
    found = huber_fit(_law, starts, (logs, unit), targets / unit, weights, scaled, penalty, max_iterations)
    terms = sizes.shape[1]
    levels, exponents = found.params[:terms], jax.nn.sigmoid(found.params[terms : 2 * terms])
    floor = jnp.exp(found.params[-1]) if limit else jnp.zeros((), dtype)
    enough = (number > starts.shape[1]) & (num_different(logs, counts) >= starts.shape[1])
    return LossLaw(levels + exponents * middle, exponents, floor, found.loss * unit**2, found.converged & enough)


def predict_loss(law: LossLaw, sizes: jax.Array | float) -> jax.Array:
    """Return the loss at a size, or at many.

    Args:
      law: of T measures of size.
      sizes: `[...]` for T = 1, else `[..., T]`, positive.

    Returns:
      `[...]`.

    Raises:
      ValueError: if a law of several measures gets sizes that are not `[..., T]`.

    Examples:
      >>> law = LossLaw(jnp.zeros(1), jnp.full(1, 0.5), jnp.asarray(1.0), jnp.zeros(()), jnp.asarray(True))
      >>> predict_loss(law, jnp.array([4.0, 16.0])).tolist()
      [1.5, 1.25]
    """
    terms = law.exponents.shape[0]
    sizes = jnp.asarray(sizes, law.exponents.dtype)
    if terms == 1:
        sizes = sizes[..., None]
    check_shape("sizes", sizes, (*sizes.shape[:-1], terms))
    shape = (1,) * (sizes.ndim - 1) + (terms,)
    falls = law.log_scales.reshape(shape) - law.exponents.reshape(shape) * jnp.log(sizes)
    return jnp.sum(jnp.exp(falls), axis=-1) + law.limit


def fit_accuracy_curve(losses: jax.Array, accuracies: jax.Array, *, max_iterations: int = 300) -> AccuracyCurve:
    """Fit the accuracy of a task to the loss of the same models, by least squares from 12 starts.

    Args:
      losses: `[M]`, floating point; a point that is not finite does not count.
      accuracies: `[M]`, floating point, in [0, 1].
      max_iterations: of each start, static.

    Returns:
      The curve, float32 (float64 if the accuracies are).

    Raises:
      TypeError: if an input is not floating point or the count is not a static int.
      ValueError: if shapes do not match.

    References:
      Magnusson et al., 2025 (arXiv 2504.11393).

    Examples:
      >>> losses = jnp.linspace(1.0, 5.0, 9)
      >>> curve = fit_accuracy_curve(losses, 0.25 + 0.6 * jax.nn.sigmoid(3.0 * (2.5 - losses)))
      >>> round(float(curve.low), 2), round(float(curve.high), 2), round(float(predict_accuracy(curve, 2.5)), 2)
      (0.25, 0.85, 0.55)
    """
    check_shape("losses", losses, (None,))
    check_floating("losses", losses)
    check_shape("accuracies", accuracies, losses.shape)
    check_floating("accuracies", accuracies)
    check_count("max_iterations", max_iterations)
    dtype = weight_dtype(accuracies.dtype)
    counts = jnp.isfinite(losses) & jnp.isfinite(accuracies)
    weights = counts.astype(dtype)
    number = jnp.sum(counts, dtype=jnp.int32)
    losses, accuracies = (jnp.where(counts, x.astype(dtype), 0) for x in (losses, accuracies))
    center, unit, scale = _mean(losses, weights), spread(losses, weights), spread(accuracies, weights)
    starts = _curve_starts(accuracies, counts, dtype)
    penalty = jnp.zeros((4, 4), dtype)
    inputs = jnp.where(counts, losses - center, 0) / unit, scale
    parabola = jnp.asarray(1e6, dtype)  # all residuals are smaller: least squares
    found = huber_fit(_curve, starts, inputs, accuracies / scale, weights, parabola, penalty, max_iterations)
    low, high, slope, middle = _curve_numbers(found.params)
    enough = (number > 4) & (num_different(losses[:, None], counts) >= 4)
    error = scale * jnp.sqrt(2 * found.loss / jnp.maximum(number, 1).astype(dtype))
    return AccuracyCurve(low, high, slope / unit, center + unit * middle, error, found.converged & enough)


def predict_accuracy(curve: AccuracyCurve, losses: jax.Array | float) -> jax.Array:
    """Return the accuracy at a loss, or at many.

    Args:
      curve: of a task.
      losses: `[...]`.

    Returns:
      `[...]`.

    Examples:
      >>> half = jnp.asarray(0.5)
      >>> curve = AccuracyCurve(half / 2, half * 2, half, 2 * half, jnp.zeros(()), jnp.asarray(True))
      >>> float(predict_accuracy(curve, 1.0))
      0.625
    """
    losses = jnp.asarray(losses, curve.low.dtype)
    return curve.low + (curve.high - curve.low) * jax.nn.sigmoid(curve.slope * (curve.middle - losses))


def _mean(values, weights):
    return jnp.sum(weights * values) / jnp.maximum(jnp.sum(weights), 1)


def _curve_numbers(params):
    """Low, high, slope and middle from numbers without bounds."""
    low = jax.nn.sigmoid(params[0])
    return low, low + (1 - low) * jax.nn.sigmoid(params[1]), jnp.exp(params[2]), params[3]


def _curve(params, losses, scale):
    low, high, slope, middle = _curve_numbers(params)
    return (low + (high - low) * jax.nn.sigmoid(slope * (middle - losses))) / scale


def _curve_starts(accuracies, counts, dtype):
    """`[12, 4]`: from the least to the largest accuracy and beyond, at several slopes and places."""
    least = jnp.clip(jnp.min(jnp.where(counts, accuracies, 1)), 0.01, 0.9)
    most = jnp.clip(jnp.max(jnp.where(counts, accuracies, 0)), least + 0.02, 0.98)
    rows = []
    for reach, slope, middle in itertools.product((1.0, 0.5), (0.0, 1.5), (-1.0, 0.0, 1.0)):
        high = 1 - (1 - most) * reach
        share = (high - least) / (1 - least)
        rows.append([jnp.log(least / (1 - least)), jnp.log(share / (1 - share)), slope, middle])
    return jnp.asarray(rows, dtype)


def _law(params, logs, unit):
    """log L in units of its spread; parameters are levels at the middle size, logits of exponents, and log E."""
    terms = logs.shape[1]
    exponents = jax.nn.sigmoid(params[terms : 2 * terms])
    parts = params[None, :terms] - exponents[None] * logs
    total = jax.nn.logsumexp(parts, axis=1)
    return (jnp.logaddexp(total, params[-1]) if params.shape[0] > 2 * terms else total) / unit


def _starts(lowest: jax.Array, terms: int, limit: bool) -> jax.Array:
    """`[S, P]`: every choice of exponents and limits; the terms share what is above the limit, near the lowest loss."""
    rows = []
    for exponents in itertools.product(START_EXPONENTS, repeat=terms):
        for share in START_LIMITS if limit else (0.0,):
            level = lowest + math.log((1 - share) / terms)
            logits = [jnp.full_like(lowest, math.log(x / (1 - x))) for x in exponents]
            rows.append(jnp.stack([level] * terms + logits + ([lowest + math.log(share)] if limit else [])))
    return jnp.stack(rows)
