"""What a Gaussian process computes at given hyperparameters: kernel, factors, and points as the data see them.

Rows that do not count have a unit row in the matrix that is factorized, and zeros everywhere else: they change nothing.
"""

import math
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from minibatch_jax._checks import check_floating, check_shape, mask_or_all
from minibatch_jax.geometry import product, root, squared_distances
from minibatch_jax.weights import weight_dtype

MEAN_VARIANCE = 10.0
"""prior variance of the mean and of the offset of low fidelities, in units of the variance of the scores"""


class Hyperparameters(NamedTuple):
    """What is fitted, all positive. In a fitted process scores are divided by their deviation, so variances are too.

    Attributes:
      lengths: `[D]`, length-scale of each input.
      variance: `[]`, of the unbiased part.
      noise: `[]`, variance of the noise.
      bias_lengths: `[D]`, length-scale of each input in the bias; None with one fidelity.
      bias_variance: `[]`, of the bias at fidelity 0; None with one fidelity.
      power: `[]`, how the bias of two high fidelities correlates; None with one fidelity.
    """

    lengths: jax.Array
    variance: jax.Array
    noise: jax.Array
    bias_lengths: jax.Array | None = None
    bias_variance: jax.Array | None = None
    power: jax.Array | None = None


class Rows(NamedTuple):
    """The data: `[N, D]`, `[N]` or None, `[N]`, all 0 where a row does not count, and which rows count `[N]`."""

    inputs: jax.Array
    fidelities: jax.Array | None
    scores: jax.Array
    counted: jax.Array


class Factors(NamedTuple):
    """What predictions need: see `GaussianProcess`."""

    log_likelihood: jax.Array
    factor: jax.Array
    basis: jax.Array
    residuals: jax.Array
    mean: jax.Array
    mean_factor: jax.Array


class Points(NamedTuple):
    """M points as the data see them, in standardized scores.

    `mean` `[M]`, `learned` `[N, M]` is their covariance with the scores, divided by the factor, and `of_mean` `[q, M]`
    what the uncertainty of the mean adds: covariances are prior + of_mean' of_mean - learned' learned.
    """

    mean: jax.Array
    learned: jax.Array
    of_mean: jax.Array


def rows_of(inputs: jax.Array, scores: jax.Array, fidelities: jax.Array | None, mask: jax.Array | None) -> Rows:
    """Return the rows, of which those in the mask, finite and of a fidelity in [0, 1] count. Raise unless they fit."""
    check_shape("inputs", inputs, (None, None))
    check_floating("inputs", inputs)
    check_shape("scores", scores, inputs.shape[:1])
    check_floating("scores", scores)
    dtype = weight_dtype(inputs.dtype)
    counted = mask_or_all("mask", mask, inputs.shape[:1]) & jnp.all(jnp.isfinite(inputs), axis=1) & jnp.isfinite(scores)
    if fidelities is not None:
        check_shape("fidelities", fidelities, inputs.shape[:1])
        check_floating("fidelities", fidelities)
        check_fidelities("fidelities", fidelities, mask)
        counted &= (fidelities >= 0) & (fidelities <= 1)
        fidelities = jnp.where(counted, fidelities, 1).astype(dtype)
    inputs = jnp.where(counted[:, None], inputs, 0).astype(dtype)
    return Rows(inputs, fidelities, jnp.where(counted, scores, 0).astype(dtype), counted)


def check_fidelities(name: str, fidelities: jax.Array, mask: jax.Array | None = None) -> None:
    """Raise if a concrete fidelity of a row that is not masked out is below 0 or above 1."""
    if isinstance(fidelities, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        return
    values = np.asarray(fidelities, np.float64)
    values = values if mask is None else values[np.asarray(mask)]
    if np.any((values < 0) | (values > 1)):
        raise ValueError(f"{name} has {values.min():.6g} to {values.max():.6g}, wanted numbers in [0, 1].")


def standardized(rows: Rows) -> tuple[Rows, jax.Array, jax.Array]:
    """Return the rows with scores of mean 0 and deviation 1, and the old mean and deviation, 1 if all are equal."""
    weight = rows.counted.astype(rows.scores.dtype)
    count = jnp.maximum(jnp.sum(weight), 1)
    shift = jnp.sum(rows.scores * weight) / count
    apart = jnp.where(rows.counted, rows.scores - shift, 0)
    scale = jnp.sqrt(jnp.sum(apart**2) / count)
    scale = jnp.where(scale > 8 * jnp.finfo(scale.dtype).eps * jnp.abs(shift), scale, 1)
    return rows._replace(scores=apart / scale), shift, scale


def kernel(
    of: Hyperparameters, x: jax.Array, y: jax.Array, s: jax.Array | None = None, t: jax.Array | None = None
) -> jax.Array:
    """Return the prior covariance `[A, M]` of points `x` at fidelities `s` and `y` at `t`; None is the target."""
    unbiased = of.variance * _matern(x, y, of.lengths)
    if s is None or t is None or of.bias_lengths is None or of.bias_variance is None or of.power is None:
        return unbiased
    s, t = s.astype(unbiased.dtype)[:, None], t.astype(unbiased.dtype)[None, :]
    both = (1 - s) * (1 - t) * (1 + s * t) ** of.power
    return unbiased + both * of.bias_variance * _matern(x, y, of.bias_lengths)


def variances(of: Hyperparameters, size: int, s: jax.Array | None = None) -> jax.Array:
    """Return the diagonal `[size]` of the kernel."""
    unbiased = jnp.broadcast_to(of.variance, (size,))
    if s is None or of.bias_variance is None or of.power is None:
        return unbiased
    return unbiased + (1 - s) ** 2 * (1 + s * s) ** of.power * of.bias_variance


def factorize(of: Hyperparameters, rows: Rows) -> Factors:
    """Factorize the covariance of the scores and integrate the mean out; NaN if it is not positive definite."""
    x, s, scores, counted = rows
    dtype = scores.dtype
    jitter = (1e-5 if dtype == jnp.float32 else 1e-10) * of.variance
    pairs = counted[:, None] & counted[None, :]
    diagonal = jnp.where(counted, of.noise + jitter, 1)
    factor = jnp.linalg.cholesky(jnp.where(pairs, kernel(of, x, x, s, s), 0) + jnp.diag(diagonal))
    count = 1 if s is None else 2
    shape = jnp.where(counted[:, None], _mean_functions(x, s, count), 0)
    solved = solve_triangular(factor, jnp.concatenate([shape, scores[:, None]], axis=1), lower=True)
    basis, white = solved[:, :-1], solved[:, -1]
    mean_factor = jnp.linalg.cholesky(product(basis.T, basis) + jnp.eye(count, dtype=dtype) / MEAN_VARIANCE)
    half = solve_triangular(mean_factor, product(basis.T, white), lower=True)
    mean = solve_triangular(mean_factor, half, lower=True, trans=1)
    residuals = white - product(basis, mean)
    squares = product(residuals, residuals) + product(mean, mean) / MEAN_VARIANCE
    logs = jnp.sum(jnp.log(jnp.diag(factor))) + jnp.sum(jnp.log(jnp.diag(mean_factor)))
    constant = jnp.sum(counted.astype(dtype)) * math.log(2 * math.pi) + count * math.log(MEAN_VARIANCE)
    return Factors(-squares / 2 - logs - constant / 2, factor, basis, residuals, mean, mean_factor)


def points_of(of: Hyperparameters, rows: Rows, factors: Factors, x: jax.Array, s: jax.Array | None) -> Points:
    """Return M points `x` at fidelities `s`, None for the target, as the data see them."""
    cross = jnp.where(rows.counted[:, None], kernel(of, rows.inputs, x, rows.fidelities, s), 0)
    learned = solve_triangular(factors.factor, cross, lower=True)
    shape = _mean_functions(x, s, factors.mean.shape[0])
    mean = product(shape, factors.mean) + product(factors.residuals, learned)
    of_mean = solve_triangular(factors.mean_factor, shape.T - product(factors.basis.T, learned), lower=True)
    return Points(mean, learned, of_mean)


def learned_covariance(a: Points, b: Points) -> jax.Array:
    """Return what data and mean add to the prior covariance `[A, M]` of two sets of points."""
    return product(a.of_mean.T, b.of_mean) - product(a.learned.T, b.learned)


def learned_variances(a: Points, b: Points) -> jax.Array:
    """Return the diagonal of `learned_covariance` of two sets of M points."""
    return jnp.sum(a.of_mean * b.of_mean, axis=0) - jnp.sum(a.learned * b.learned, axis=0)


def _matern(x, y, lengths):
    x, y = x / lengths[None], y / lengths[None]
    r = math.sqrt(5) * root(squared_distances(x, y, origin=jnp.zeros(x.shape[1], x.dtype)))
    return (1 + r + r * r / 3) * jnp.exp(-r)


def _mean_functions(x, s, count):
    """Return 1 and, with several fidelities, 1 - s for each point: `[M, count]`."""
    ones = jnp.ones(x.shape[0], x.dtype)
    if count == 1:
        return ones[:, None]
    return jnp.stack([ones, jnp.zeros_like(ones) if s is None else 1 - s.astype(ones.dtype)], axis=1)
