"""A Gaussian process over mixtures and fidelities, fitted by its marginal likelihood: what runs not made would score.

The score of input x at fidelity s in [0, 1], with s = 1 the target, is a mean, an unbiased part, a bias that vanishes
at the target, and noise. The two parts are independent, with Matérn 5/2 kernels, one length-scale for each input:

    k((x, s), (x', s')) = v M(x, x'; l) + (1 - s) (1 - s') (1 + s s')^p v_b M(x, x'; l_b)

The mean is b_0 + b_1 (1 - s) with a wide normal prior, because losses of a small model are higher than those of a large
one by an offset that is unknown until both were run; it is integrated out. All other numbers have log-normal priors and
are fitted: the proportions of a mixture sum to one, so its length-scales alone are not all determined by any data.

Rows that do not count change nothing, so arrays padded to one size share one program.

References:
  Rasmussen & Williams, Gaussian processes for machine learning, 2006, sections 2.7 and 5.4.
  Wu et al., Practical multi-fidelity Bayesian optimization for hyperparameter tuning, 2019 (arXiv 1903.04703).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind
from minibatch_jax.geometry import product
from minibatch_jax.mixing._bfgs import minimize_all
from minibatch_jax.mixing._gaussian import (
    Factors,
    Hyperparameters,
    Rows,
    check_fidelities,
    factorize,
    kernel,
    learned_covariance,
    points_of,
    rows_of,
    standardized,
)

_LENGTH = math.log(2.0), 1.0
_VARIANCE = 0.0, 1.0
_NOISE = math.log(1e-3), 1.5
_BIAS_LENGTH = math.log(4.0), 1.0
_BIAS_VARIANCE = math.log(0.1), 1.5
_POWER = 0.0, 0.5
"""center and width of the normal prior of each log; lengths count in sqrt(D) spreads"""


class GaussianProcess(NamedTuple):
    """A process fitted to N rows, for `posterior`.

    Attributes:
      hyperparameters: the fitted ones.
      rows: inputs, fidelities, standardized scores, and which rows count: those in the mask and finite.
      factors: Cholesky factor of the covariance of the scores, and what was solved with it.
      shift: `[]`, mean of the scores.
      scale: `[]`, deviation of the scores, 1 if they are all equal.
      log_likelihood: `[]`, of the standardized scores.
      slope: `[]`, largest slope of the log posterior density, in nats for a prior width of one log.
      converged: `[]` bool, whether the slope is within the tolerance.
      positive_definite: `[]` bool, whether the factorization succeeded; if not, all predictions are NaN.
    """

    hyperparameters: Hyperparameters
    rows: Rows
    factors: Factors
    shift: jax.Array
    scale: jax.Array
    log_likelihood: jax.Array
    slope: jax.Array
    converged: jax.Array
    positive_definite: jax.Array


class Posterior(NamedTuple):
    """What is known of the scores without noise at M points, in units of the scores.

    Attributes:
      mean: `[M]`.
      covariance: `[M, M]`.
    """

    mean: jax.Array
    covariance: jax.Array


def fidelity_kernel(
    hyperparameters: Hyperparameters,
    x: jax.Array,
    y: jax.Array,
    fidelities: jax.Array | None = None,
    other_fidelities: jax.Array | None = None,
) -> jax.Array:
    """Return the prior covariance of the scores at two sets of points, without mean and noise.

    Args:
      hyperparameters: with `bias_lengths`, `bias_variance` and `power` if there are fidelities.
      x: `[A, D]`, floating point.
      y: `[M, D]`, of the same dtype.
      fidelities: `[A]` in [0, 1], of the rows of `x`; None if all are at the target.
      other_fidelities: `[M]` in [0, 1], of the rows of `y`; None if all are at the target.

    Returns:
      `[A, M]`, float32 (float64 if the points are).

    Raises:
      ValueError: if shapes do not match, or a concrete fidelity is outside [0, 1].

    References:
      Wu et al., Practical multi-fidelity Bayesian optimization for hyperparameter tuning, 2019 (arXiv 1903.04703).

    Examples:
      >>> two, three = jnp.array(2.0), jnp.array(3.0)
      >>> of = Hyperparameters(jnp.ones(1), two, jnp.array(0.0), jnp.ones(1), three, two)
      >>> here, low = jnp.zeros((1, 1)), jnp.zeros(1)
      >>> float(fidelity_kernel(of, here, here)[0, 0]), float(fidelity_kernel(of, here, here, low, low)[0, 0])
      (2.0, 5.0)
    """
    check_shape("x", x, (None, hyperparameters.lengths.shape[0]))
    check_shape("y", y, (None, x.shape[1]))
    for name, given, points in (("fidelities", fidelities, x), ("other_fidelities", other_fidelities, y)):
        if given is not None:
            check_shape(name, given, points.shape[:1])
            check_fidelities(name, given)
    return kernel(hyperparameters, x, y, fidelities, other_fidelities)


def log_marginal_likelihood(
    hyperparameters: Hyperparameters,
    inputs: jax.Array,
    scores: jax.Array,
    fidelities: jax.Array | None = None,
    *,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Return the log density of the scores, with the mean integrated over its prior of variance 10.

    Rows outside the mask, and rows that are not finite, do not count.

    Args:
      hyperparameters: of the process; the scores are taken as they are, not standardized.
      inputs: `[N, D]`, floating point.
      scores: `[N]`, floating point.
      fidelities: `[N]` in [0, 1]; None if all are at the target.
      mask: `[N]` bool, rows that count; None means all.

    Returns:
      `[]`, float32 (float64 if the inputs are); NaN if the covariance is not positive definite.

    Raises:
      TypeError: if inputs, scores or fidelities are not floating point.
      ValueError: if shapes do not match, or a concrete fidelity is outside [0, 1].

    References:
      Rasmussen & Williams, Gaussian processes for machine learning, 2006, section 2.7.

    Examples:
      >>> of = Hyperparameters(jnp.ones(1), jnp.array(1.0), jnp.array(1.0))
      >>> round(float(log_marginal_likelihood(of, jnp.zeros((1, 1)), jnp.zeros(1))), 3)  # normal, of variance 12
      -2.161
    """
    rows = rows_of(inputs, scores, fidelities, mask)
    check_shape("lengths", hyperparameters.lengths, rows.inputs.shape[1:])
    return factorize(hyperparameters, rows).log_likelihood


def fit_gaussian_process(
    key: jax.Array | int,
    inputs: jax.Array,
    scores: jax.Array,
    fidelities: jax.Array | None = None,
    *,
    mask: jax.Array | None = None,
    spread: jax.Array | None = None,
    start: Hyperparameters | None = None,
    num_starts: int = 4,
    max_iterations: int = 100,
    tolerance: float | jax.Array = 0.1,
) -> GaussianProcess:
    """Fit a process to standardized scores: the largest posterior density of the hyperparameters, from several starts.

    BFGS goes from `start` if there is one, from the center of the prior, and from draws of the prior; the best end
    counts. Rows outside the mask, and rows that are not finite, have no influence. Without any row the result is the
    center of the prior.

    Args:
      key: int seed or key, for the draws.
      inputs: `[N, D]`, floating point.
      scores: `[N]`, floating point.
      fidelities: `[N]` in [0, 1], where 1 is the target; None if all are at the target.
      mask: `[N]` bool, rows that count; None means all.
      spread: `[D]`, deviation of each input over the points of interest, the unit of the prior of its length-scale;
        None means that over the rows. An input of spread 0 gets spread 1.
      start: hyperparameters of an earlier fit.
      num_starts: how many starts in all.
      max_iterations: evaluations for each start, with one factorization each.
      tolerance: largest slope of a converged fit, in nats for a prior width of one log. In float32 rounding leaves some
        hundredths.

    Returns:
      A `GaussianProcess`, float32 (float64 if the inputs are).

    Raises:
      TypeError: if inputs, scores or fidelities are not floating point, or a count is not an int.
      ValueError: if shapes do not match, a concrete fidelity, a count or the tolerance is out of range, or `start` is
        of one fidelity and there are several.

    References:
      Rasmussen & Williams, Gaussian processes for machine learning, 2006, section 5.4.

    Examples:
      >>> x = jnp.linspace(0, 1, 8)[:, None]
      >>> process = fit_gaussian_process(0, x, jnp.sin(3 * x[:, 0]), num_starts=1)
      >>> round(float(posterior(process, jnp.array([[0.5]])).mean[0]), 2)
      1.0
    """
    check_count("num_starts", num_starts)
    check_count("max_iterations", max_iterations)
    check_number("tolerance", tolerance, 0)
    rows, shift, scale = standardized(rows_of(inputs, scores, fidelities, mask))
    center, width = _prior(rows, spread)
    starts = jax.random.normal(as_key(key), (num_starts, _ravel(center).shape[0]), rows.scores.dtype)
    known = jnp.zeros_like(starts[:1])
    if start is not None:
        _check_start(start, center)
        logs = jax.tree.map(lambda a, c, w: (jnp.log(a.astype(c.dtype)) - c) / w, start, center, width)
        known = jnp.concatenate([_ravel(logs)[None], known])
    starts = jnp.concatenate([known, starts])[:num_starts]
    objective = bind(_objective, rows, center, width)
    ends = minimize_all(objective, starts, max_iterations=max_iterations, tolerance=tolerance)
    best = jnp.argmin(ends.value)
    hyperparameters = _hyperparameters(ends.point[best], center, width)
    slope = jnp.max(jnp.abs(ends.gradient[best]))
    factors = factorize(hyperparameters, rows)
    valid, reached = jnp.isfinite(factors.log_likelihood), jnp.isfinite(ends.value[best])
    converged = reached & (slope <= tolerance)
    return GaussianProcess(
        hyperparameters, rows, factors, shift, scale, factors.log_likelihood, slope, converged, valid
    )


def posterior(process: GaussianProcess, inputs: jax.Array, fidelities: jax.Array | None = None) -> Posterior:
    """Return mean and covariance of the scores without noise at M points.

    Args:
      process: what `fit_gaussian_process` returns.
      inputs: `[M, D]`, floating point.
      fidelities: `[M]` in [0, 1]; None if all are at the target.

    Returns:
      A `Posterior`, in the dtype of the process; NaN for points that are not finite.

    Raises:
      TypeError: if the inputs are not floating point.
      ValueError: if shapes do not match, or a concrete fidelity is outside [0, 1].

    References:
      Rasmussen & Williams, Gaussian processes for machine learning, 2006, section 2.7.

    Examples:
      >>> process = fit_gaussian_process(0, jnp.zeros((1, 1)), jnp.array([3.0]), num_starts=1, max_iterations=1)
      >>> round(float(posterior(process, jnp.zeros((1, 1))).mean[0]), 2)
      3.0
    """
    check_shape("inputs", inputs, (None, process.rows.inputs.shape[1]))
    check_floating("inputs", inputs)
    if fidelities is not None:
        check_shape("fidelities", fidelities, inputs.shape[:1])
        check_fidelities("fidelities", fidelities)
    x = inputs.astype(process.factors.factor.dtype)
    points = points_of(process.hyperparameters, process.rows, process.factors, x, fidelities)
    covariance = kernel(process.hyperparameters, x, x, fidelities, fidelities) + learned_covariance(points, points)
    return Posterior(process.shift + process.scale * points.mean, process.scale**2 * covariance)


def _prior(rows, spread):
    """Center and width of the normal prior of the logs."""
    size, dtype = rows.inputs.shape[1], rows.inputs.dtype
    if spread is None:
        weight = rows.counted.astype(dtype)
        count = jnp.maximum(jnp.sum(weight), 1)
        middle = product(weight, rows.inputs) / count
        spread = jnp.sqrt(product(weight, (rows.inputs - middle[None]) ** 2) / count)
    check_shape("spread", spread, (size,))
    spread = spread.astype(dtype)
    unit = jnp.log(jnp.where((spread > 0) & jnp.isfinite(spread), spread, 1)) + math.log(size) / 2
    ones, number = jnp.ones(size, dtype), lambda value: jnp.asarray(value, dtype)
    center = Hyperparameters(unit + _LENGTH[0], number(_VARIANCE[0]), number(_NOISE[0]))
    width = Hyperparameters(_LENGTH[1] * ones, number(_VARIANCE[1]), number(_NOISE[1]))
    if rows.fidelities is None:
        return center, width
    center = center._replace(
        bias_lengths=unit + _BIAS_LENGTH[0], bias_variance=number(_BIAS_VARIANCE[0]), power=number(_POWER[0])
    )
    width = width._replace(
        bias_lengths=_BIAS_LENGTH[1] * ones, bias_variance=number(_BIAS_VARIANCE[1]), power=number(_POWER[1])
    )
    return center, width


def _check_start(start, center):
    if jax.tree.structure(start) != jax.tree.structure(center):
        raise ValueError("start has other fields than the fit, wanted hyperparameters of the same fidelities.")
    check_shape("start.lengths", start.lengths, center.lengths.shape)


def _ravel(tree):
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def _hyperparameters(point, center, width):
    """From logs in units of their prior, as one vector."""
    leaves, tree = jax.tree.flatten(center)
    ends = np.cumsum([leaf.size for leaf in leaves])
    parts = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(point, ends[:-1]), leaves)]
    return jax.tree.map(lambda z, c, w: jnp.exp(c + w * z), jax.tree.unflatten(tree, parts), center, width)


def _objective(rows, center, width, point):
    """Minus the log posterior density; infinite where the covariance cannot be factorized."""
    value = jnp.sum(point**2) / 2 - factorize(_hyperparameters(point, center, width), rows).log_likelihood
    return jnp.where(jnp.isfinite(value), value, jnp.inf)
