"""What evaluating a point may gain, from the posterior of a Gaussian process: improvement, or knowledge of the maximum.

All are elementwise, so a whole pool is scored at once, and stable in the tails: where a point is many deviations below
the best, products of tiny numbers become logs, and differences of almost equal numbers become the continued fraction of
Mills' ratio `m(t) = Phi(-t) / phi(t) = 1 / (t + r(t))`, with `r(t) = 1 / (t + 2 / (t + 3 / (t + ...)))`.

References:
  Ament et al., Unexpected improvements to expected improvement, 2023 (arXiv 2310.20708).
  Wang & Jegelka, Max-value entropy search, 2017 (arXiv 1703.01968).
  Takeno et al., Multi-fidelity Bayesian optimization with max-value entropy search, 2020 (arXiv 1901.08275).
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from minibatch_jax.weights import weight_dtype


def log_expected_improvement(mean: jax.Array, deviation: jax.Array, best: jax.Array | float) -> jax.Array:
    """Return the log of the expected improvement, `log E[max(f - best, 0)]` with f normal.

    With z = (mean - best) / deviation it is `log deviation + log(phi(z) + z Phi(z))`. The improvement itself is 0 in
    float32 at z = -14; its log still ranks points at z = -1e4.

    Args:
      mean: floating point, posterior mean of each point.
      deviation: floating point, posterior deviation, at least 0. At 0 the improvement is known.
      best: the score to exceed; broadcasts with the points.

    Returns:
      The log in the broadcast shape, float32 (float64 if the mean is); -inf where deviation is 0 and nothing improves.

    References:
      Ament et al., Unexpected improvements to expected improvement, 2023 (arXiv 2310.20708).

    Examples:
      >>> values = log_expected_improvement(jnp.array([0.0, 0.0, 2.0]), jnp.array([1.0, 0.01, 0.0]), 1.0)
      >>> [round(float(v), 1) for v in values]
      [-2.5, -5014.7, 0.0]
    """
    mean, deviation, best = _wide(mean, deviation, best)
    certain = deviation <= 0
    scale = jnp.where(certain, 1, deviation)
    z = (mean - best) / scale
    known = jnp.log(jnp.maximum(mean - best, 0))
    return jnp.where(certain, known, jnp.log(scale) + _log_improvement(z))


def max_value_gain(mean: jax.Array, deviation: jax.Array, maximum: jax.Array) -> jax.Array:
    """Return how many nats about f a point would tell if the maximum were known: max-value entropy search.

    With gamma = (maximum - mean) / deviation it is `gamma phi(gamma) / (2 Phi(gamma)) - log Phi(gamma)`, the entropy of
    a normal variable minus that of one cut off above at gamma. Average it over samples of the maximum.

    Args:
      mean: floating point, posterior mean of each point.
      deviation: floating point, posterior deviation, at least 0. A point of deviation 0 tells nothing.
      maximum: sampled maximum; broadcasts with the points.

    Returns:
      The gain in the broadcast shape, at least 0, float32 (float64 if the mean is).

    References:
      Wang & Jegelka, Max-value entropy search, 2017 (arXiv 1703.01968).

    Examples:
      >>> round(float(max_value_gain(jnp.array(0.2), jnp.array(0.7), jnp.array(1.0))), 5)
      0.27114
    """
    mean, deviation, maximum = _wide(mean, deviation, maximum)
    certain = deviation <= 0
    return jnp.where(certain, 0, _gain((maximum - mean) / jnp.where(certain, 1, deviation)))


def fidelity_max_value_gain(
    mean: jax.Array, deviation: jax.Array, maximum: jax.Array, correlation: jax.Array
) -> jax.Array:
    """Return how many nats about the maximum at the target an observation of another fidelity or with noise would tell.

    The observation has this correlation rho with the score f at the target. In its own deviations, its density given
    f <= maximum is `phi(z) Phi((gamma - rho z) / sqrt(1 - rho^2)) / Phi(gamma)`, gamma = (maximum - mean) / deviation.
    Its second moment is known, so the gain is `rho^2 gamma phi(gamma) / (2 Phi(gamma)) - log Phi(gamma)` plus the mean
    of `log Phi((gamma - rho z) / sqrt(1 - rho^2))`, which is a sum over nodes. Above |rho| = 1 - 1e-6 it is the gain of
    `max_value_gain`.

    Args:
      mean: floating point, posterior mean of f at each point.
      deviation: floating point, posterior deviation of f, at least 0. A point of deviation 0 tells nothing.
      maximum: sampled maximum at the target; broadcasts with the points.
      correlation: of the observation with f, in [-1, 1]; broadcasts with the points.

    Returns:
      The gain in the broadcast shape, at least 0, float32 (float64 if the mean is).

    References:
      Takeno et al., Multi-fidelity Bayesian optimization with max-value entropy search, 2020 (arXiv 1901.08275).

    Examples:
      >>> gain = fidelity_max_value_gain(jnp.array(0.2), jnp.array(0.7), jnp.array(1.0), jnp.array([0.0, 0.5, 1.0]))
      >>> [round(float(g), 4) for g in gain]
      [0.0, 0.0429, 0.2711]
    """
    mean, deviation, maximum, correlation = jnp.broadcast_arrays(*_wide(mean, deviation, maximum, correlation))
    certain = deviation <= 0
    gamma = (maximum - mean) / jnp.where(certain, 1, deviation)
    rho = jnp.abs(correlation)  # the sign only mirrors the observation
    full = rho > 1 - 1e-6
    partial = _partial_gain(gamma, jnp.where(full, 0.5, rho))
    return jnp.where(certain, 0, jnp.where(full, _gain(gamma), partial))


def _wide(*arrays):
    dtype = weight_dtype(jnp.result_type(arrays[0]))
    return jnp.broadcast_arrays(*(jnp.asarray(a).astype(dtype) for a in arrays))


_LOG_ROOT = math.log(2 * math.pi) / 2
_TAIL = 3.0
_FRACTIONS = 24


def _rest(t):
    """r(t) of Mills' ratio for t >= 3, to rounding."""
    rest = jnp.zeros_like(t)
    for numerator in range(_FRACTIONS, 0, -1):
        rest = numerator / (t + rest)
    return rest


def _log_improvement(z):
    """log(phi(z) + z Phi(z)); below -3 the sum is phi(z) r / (t + r) with t = -z."""
    tail = z < -_TAIL
    near = jnp.where(tail, 0, z)
    direct = jnp.log(jnp.exp(-(near**2) / 2 - _LOG_ROOT) + near * jnp.exp(log_ndtr(near)))
    t = jnp.where(tail, -z, _TAIL)
    rest = _rest(t)
    return jnp.where(tail, -(t**2) / 2 - _LOG_ROOT + jnp.log(rest / (t + rest)), direct)


def _gain(gamma):
    """gamma phi / (2 Phi) - log Phi; below -3 it is log(t + r) + log sqrt(2 pi) - t r / 2 with t = -gamma."""
    tail = gamma < -_TAIL
    near = jnp.where(tail, 0, gamma)
    log_below = log_ndtr(near)
    direct = near * jnp.exp(-(near**2) / 2 - _LOG_ROOT - log_below) / 2 - log_below
    t = jnp.where(tail, -gamma, _TAIL)
    rest = _rest(t)
    return jnp.where(tail, jnp.log(t + rest) + _LOG_ROOT - t * rest / 2, jnp.maximum(direct, 0))


def _partial_gain(gamma, rho):
    """The integrand is smooth in z below rho = sqrt(1 / 2), and above it in u, where the density is cut off."""
    other = jnp.sqrt((1 - rho) * (1 + rho))
    log_below = log_ndtr(gamma)
    hazard = jnp.exp(-(gamma**2) / 2 - _LOG_ROOT - log_below)
    grid = jnp.linspace(-_REACH, _REACH, _NODES, dtype=gamma.dtype).reshape((1,) * gamma.ndim + (-1,))
    spacing = 2 * _REACH / (_NODES - 1)
    in_z = rho < other
    slope = jnp.where(in_z, 1, -other / jnp.where(in_z, 1, rho))  # of z over the nodes
    middle_u = jnp.minimum((gamma + rho**2 * hazard) / other, 0)
    middle = jnp.where(in_z, -rho * hazard, (gamma - other * middle_u) / jnp.where(in_z, 1, rho))
    z = middle[..., None] + slope[..., None] * grid
    below = log_ndtr((gamma[..., None] - rho[..., None] * z) / other[..., None])
    log_density = below - z**2 / 2 - _LOG_ROOT - log_below[..., None]
    density = jnp.exp(log_density) * (jnp.abs(slope) * spacing)[..., None]
    whole = jnp.where(in_z, jnp.sum(density, axis=-1), 1)  # one up to rounding, which would not cancel at rho = 0
    expected = jnp.sum(density * below, axis=-1) / whole
    return jnp.maximum(rho**2 * gamma * hazard / 2 - log_below + expected, 0)


_REACH, _NODES = 8.0, 32
"""of the nodes to both sides, and how many they are: the error is then that of rounding"""
