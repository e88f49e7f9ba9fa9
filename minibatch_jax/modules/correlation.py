"""Correlation of two views as a mini-batch objective: deep canonical correlation analysis.

The objective is not a sum over examples. A small batch overestimates the correlation: independent views of width d look
correlated unless B is much larger than d. For small batches use `orthogonal_iteration_loss`, which whitens with moments
averaged over past batches.

References:
  Andrew et al., Deep canonical correlation analysis, ICML 2013.
  Wang et al., On deep multi-view representation learning, ICML 2015 (arXiv 1602.01024).
  Wang et al., Stochastic optimization for deep CCA via nonlinear orthogonal iterations, 2015 (arXiv 1510.02054).

Method: DCCA, DCCAE
Paper: 1602.01024
Experiment: two_view_correlation, noisy_view_correlation
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax.devices import sum_over
from minibatch_jax.geometry import product


class Projections(NamedTuple):
    """Linear maps of two centered views, and the correlations of the mapped views.

    Attributes:
      first: `[d1, k]`, map of the first view.
      second: `[d2, k]`, map of the second view.
      correlations: `[k]`, correlation of each pair of columns, largest first.
    """

    first: jax.Array
    second: jax.Array
    correlations: jax.Array


class Whitening(NamedTuple):
    """Moving averages of the moments of two views. They start at 0: divide by `mass` to remove this bias.

    Attributes:
      first_mean: `[d1]`, mean of the first view.
      second_mean: `[d2]`, mean of the second view.
      first_moment: `[d1, d1]`, second moments of the first view.
      second_moment: `[d2, d2]`, second moments of the second view.
      mass: `[]`, sum of the weights of all batches so far.
    """

    first_mean: jax.Array
    second_mean: jax.Array
    first_moment: jax.Array
    second_moment: jax.Array
    mass: jax.Array


def canonical_correlation(
    first: jax.Array,
    second: jax.Array,
    *,
    ridge: float | jax.Array = 1e-3,
    num_components: int | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Return the sum of the largest canonical correlations of two views. The negative sum is the loss of deep CCA.

    The derivative is a closed form that stays finite where correlations coincide. Add a reconstruction loss for DCCAE.

    Args:
      first: `[B, d1]`, float32 or float64, B > 1.
      second: `[B, d2]`, same dtype.
      ridge: > 0, added to the variances of a view, as a fraction of their mean (of 1, if that is 0).
      num_components: static, how many correlations to sum; min(d1, d2) by default.
      axis_name: axis of a `shard_map` or `pmap` over which the batch is sharded; the moments are summed over this axis.

    Returns:
      `[]`, between 0 and the number of components.

    Raises:
      TypeError: if the views are not floating point or the number of components not a static int.
      ValueError: if shapes do not match or the ridge is not positive.

    References:
      Andrew et al., Deep canonical correlation analysis, ICML 2013.

    Examples:
      >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
      >>> round(float(canonical_correlation(x, x @ jnp.array([[2.0, 1.0], [0.0, 3.0]]), ridge=1e-6)), 4)
      2.0
    """
    num_components = _check_views(first, second, ridge, num_components)
    moments = _covariances(first, second, ridge, axis_name)
    return _nuclear_norm(*moments, num_components)


def linear_cca(
    first: jax.Array, second: jax.Array, *, ridge: float | jax.Array = 1e-3, num_components: int | None = None
) -> Projections:
    """Solve the canonical correlation analysis of two views, such as the outputs of two trained networks.

    Args:
      first: `[B, d1]`, float32 or float64.
      second: `[B, d2]`, same dtype.
      ridge: > 0, added to the variances of a view, as a fraction of their mean (of 1, if that is 0).
      num_components: k, how many correlations to return, static; min(d1, d2) by default.

    Returns:
      Projections of unit variance, most correlated first. Subtract the mean of the training set before projecting.

    Raises:
      TypeError: if the views are not floating point or the number of components not a static int.
      ValueError: if shapes do not match or the ridge is not positive.

    Examples:
      >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
      >>> linear_cca(x, 3 * x, ridge=1e-6).correlations.round(3).tolist()
      [1.0, 1.0]
    """
    num_components = _check_views(first, second, ridge, num_components)
    s11, s12, s22 = _covariances(first, second, ridge, None)
    left, right = _inverse_root(s11), _inverse_root(s22)
    u, values, vt = jnp.linalg.svd(product(product(left, s12), right), full_matrices=False)
    return Projections(
        product(left, u[:, :num_components]), product(right, vt[:num_components].T), values[:num_components]
    )


def init_whitening(first_width: int, second_width: int) -> Whitening:
    """Return moments of two views before the first batch: all zeros.

    Args:
      first_width: d1, static.
      second_width: d2, static.

    Returns:
      `Whitening` of zeros, the first state of `orthogonal_iteration_loss`.

    Raises:
      TypeError: if a width is not a static int.
      ValueError: if a width is below 1.

    Examples:
      >>> float(init_whitening(2, 3).mass)
      0.0
    """
    check_count("first_width", first_width)
    check_count("second_width", second_width)
    d1, d2 = first_width, second_width
    return Whitening(jnp.zeros(d1), jnp.zeros(d2), jnp.zeros((d1, d1)), jnp.zeros((d2, d2)), jnp.zeros(()))


def orthogonal_iteration_loss(
    state: Whitening,
    first: jax.Array,
    second: jax.Array,
    *,
    decay: float | jax.Array = 0.99,
    ridge: float | jax.Array = 1e-3,
) -> tuple[jax.Array, Whitening]:
    """Regress each view on the other view, whitened by moments averaged over past batches.

    Args:
      state: moments of past batches, `init_whitening` at first.
      first: `[B, d]`, float32 or float64.
      second: `[B, d]`, same dtype: each view is the target of the other.
      decay: share of the old moments in the average, in [0, 1).
      ridge: > 0, added to the variances of a view, as a fraction of their mean (of 1, if that is 0).

    Returns:
      `(loss, state)`: half the sum of the two squared errors, averaged over the batch, and the new moments. The targets
      are constants for the gradient.

    Raises:
      TypeError: if the views are not floating point.
      ValueError: if shapes do not match or a number is out of range.

    References:
      Wang et al., Stochastic optimization for deep CCA via nonlinear orthogonal iterations, 2015 (arXiv 1510.02054).

    Examples:
      >>> x = jnp.array([[1.0], [-1.0], [1.0], [-1.0]])
      >>> loss, state = orthogonal_iteration_loss(init_whitening(1, 1), x, x, ridge=1e-6)
      >>> round(float(loss), 4)
      0.0
    """
    _check_views(first, second, ridge, None)
    check_shape("second", second, first.shape)
    check_number("decay", decay, 0, 1, open_high=True)
    new = _remember(state, *jax.lax.stop_gradient((first, second)), decay)
    target = _whiten(second, new.second_mean, new.second_moment, new.mass, ridge)
    other_target = _whiten(first, new.first_mean, new.first_moment, new.mass, ridge)
    first_error = first - (new.first_mean / new.mass)[None, :] - target
    second_error = second - (new.second_mean / new.mass)[None, :] - other_target
    return (jnp.sum(first_error**2) + jnp.sum(second_error**2)) / (2 * first.shape[0]), new


def _remember(state, first, second, memory):
    batch = Whitening(
        jnp.mean(first, axis=0),
        jnp.mean(second, axis=0),
        product(first.T, first) / first.shape[0],
        product(second.T, second) / second.shape[0],
        jnp.ones_like(state.mass),
    )
    return jax.tree.map(lambda old, new: memory * old + (1 - memory) * new, state, batch)


def _whiten(view, mean_sum, moment_sum, mass, ridge):
    mean = mean_sum / mass
    covariance = moment_sum / mass - mean[:, None] * mean[None, :]
    root = _inverse_root(_regularized(covariance, ridge))
    return jax.lax.stop_gradient(product(view - mean[None, :], root))


def _check_views(first, second, ridge, num_components):
    check_shape("first", first, (None, None))
    check_shape("second", second, (first.shape[0], None))
    check_floating("first", first)
    check_floating("second", second)
    check_number("ridge", ridge, 0, open_low=True)
    most = min(first.shape[1], second.shape[1])
    if num_components is None:
        return most
    check_count("num_components", num_components, most, "the width of the narrower view")
    return num_components


def _covariances(first, second, ridge, axis_name):
    def total(x):
        return sum_over(x, axis_name)

    count = total(jnp.asarray(first.shape[0], first.dtype))
    x = first - (total(jnp.sum(first, axis=0)) / count)[None, :]
    y = second - (total(jnp.sum(second, axis=0)) / count)[None, :]
    s11, s12, s22 = (total(product(a.T, b)) / (count - 1) for a, b in ((x, x), (x, y), (y, y)))
    return _regularized(s11, ridge), s12, _regularized(s22, ridge)


def _regularized(moments, ridge):
    size = moments.shape[0]
    variance = jnp.trace(moments) / size
    return moments + ridge * jnp.where(variance > 0, variance, 1) * jnp.eye(size, dtype=moments.dtype)


def _nuclear_norm_value(s11, s12, s22, num_components):
    return _nuclear_norm_forward(s11, s12, s22, num_components)[0]


def _nuclear_norm_forward(s11, s12, s22, num_components):
    left, right = _inverse_root(s11), _inverse_root(s22)
    u, values, vt = jnp.linalg.svd(product(product(left, s12), right), full_matrices=False)
    u, values, v = u[:, :num_components], values[:num_components], vt[:num_components].T
    return jnp.sum(values), (product(left, u), values, product(right, v))


def _nuclear_norm_backward(num_components, residuals, cotangent):
    a, values, b = residuals
    d11, d22 = (-0.5 * product(m * values[None, :], m.T) for m in (a, b))
    return cotangent * d11, cotangent * product(a, b.T), cotangent * d22


_nuclear_norm = jax.custom_vjp(_nuclear_norm_value, nondiff_argnums=(3,))
_nuclear_norm.defvjp(_nuclear_norm_forward, _nuclear_norm_backward)


def _inverse_root(matrix):
    values, vectors = jnp.linalg.eigh(matrix)
    floor = jnp.finfo(matrix.dtype).eps * jnp.maximum(values[-1], jnp.finfo(matrix.dtype).tiny)
    return product(vectors * jax.lax.rsqrt(jnp.maximum(values, floor))[None, :], vectors.T)
