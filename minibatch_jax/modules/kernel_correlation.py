"""Canonical correlation analysis of two views by kernels: exactly for few rows, with random features for many.

Kernel CCA is linear CCA of the features that a kernel stands for, of which there may be infinitely many. The exact
solution takes time N^3. With M random features of each view in place of the kernel, linear CCA takes time N M^2 and
approaches the exact solution as M grows:

    features = init_fourier_features(key, width, 1000, bandwidth=3.0)       # one of each view, with its own key
    found = linear_cca(fourier_features(features, first), fourier_features(others, second), ridge=1000 * ridge)

`linear_cca` takes its ridge relative to the mean variance of the features and `kernel_cca` relative to the sum, so the
same regularization is M times the number there.

References:
  Hardoon et al., Canonical correlation analysis: an overview with application to learning methods, 2004.
  Rahimi and Recht, Random features for large-scale kernel machines, NIPS 2007.
  Lopez-Paz et al., Randomized nonlinear component analysis, 2014 (arXiv 1402.0119).

Method: kernel CCA, exact and randomized
Paper: 1402.0119
Experiment: noisy_view_correlation
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax.geometry import product, squared_distances
from minibatch_jax.modules.correlation import Projections


class FourierFeatures(NamedTuple):
    """Random waves whose products approximate a Gaussian kernel.

    Attributes:
      frequencies: `[d, M]`, one wave in each column.
      phases: `[M]`, in [0, 2 pi).
    """

    frequencies: jax.Array
    phases: jax.Array


def gaussian_kernel(x: jax.Array, y: jax.Array, *, bandwidth: float | jax.Array) -> jax.Array:
    """Return the Gaussian kernel of each row of `x` with each row of `y`: exp(-distance^2 / (2 bandwidth^2)).

    Args:
      x: `[N, d]`, floating point.
      y: `[M, d]`, same dtype.
      bandwidth: > 0; the median distance of rows is a usual choice.

    Returns:
      `[N, M]`, in [0, 1], float32 (float64 if the rows are); NaN for a row that is not finite.

    Raises:
      TypeError: if the rows are not floating point.
      ValueError: if shapes do not match or the bandwidth is not positive.

    Examples:
      >>> gaussian_kernel(jnp.array([[3.0], [0.0]]), jnp.array([[3.0], [jnp.nan]]), bandwidth=0.1).tolist()
      [[1.0, nan], [0.0, nan]]
    """
    check_shape("x", x, (None, None))
    check_shape("y", y, (None, x.shape[1]))
    check_floating("x", x)
    check_floating("y", y)
    check_number("bandwidth", bandwidth, 0, open_low=True)
    return jnp.exp(-squared_distances(x, y) / (2 * bandwidth**2))


def kernel_cca(
    first: jax.Array, second: jax.Array, *, num_components: int, ridge: float | jax.Array = 1e-3
) -> Projections:
    """Solve the canonical correlation analysis of two views that are given by their kernels, in time N^3.

    With the kernel `rows @ rows.T` this is linear CCA. The kernels are centered here. In float32 the projections
    are accurate for a ridge of 1e-4 and above; take float64 for less.

    Args:
      first: `[N, N]`, float32 or float64, positive semidefinite: the kernel of the rows of the first view.
      second: `[N, N]`, same dtype, of the same N examples.
      num_components: k, how many correlations to return, static, at most N.
      ridge: > 0, added to the variance along every feature, as a fraction of their sum (of 1, if that is 0).

    Returns:
      Projections, most correlated first, with maps `[N, k]` of rows of the kernel: `kernel(x, rows) @ first` projects
      new rows `x`. Subtract the mean projection of the training set. The variances of projections, with what the ridge
      adds, are 1.

    Raises:
      TypeError: if the kernels are not floating point or the number of components not a static int.
      ValueError: if shapes do not match or a number is out of range.

    References:
      Hardoon et al., Canonical correlation analysis: an overview with application to learning methods, 2004.

    Examples:
      >>> x = jnp.array([[-1.0], [0.0], [1.0]])
      >>> found = kernel_cca(x @ x.T, 4 * x @ x.T, num_components=1, ridge=1e-6)
      >>> found.correlations.round(3).tolist(), jnp.abs(x @ x.T @ found.first).round(3)[:, 0].tolist()
      ([1.0], [1.0, 0.0, 1.0])
    """
    check_shape("first", first, (None, first.shape[0]))
    check_shape("second", second, first.shape)
    check_floating("first", first)
    check_floating("second", second)
    check_count("num_components", num_components, first.shape[0])
    check_number("ridge", ridge, 0, open_low=True)
    (rows, stretched, maps), (other_rows, other_stretched, other_maps) = (_whitened(k, ridge) for k in (first, second))
    cross = stretched[:, None] * product(rows.T, other_rows) * other_stretched[None, :]
    u, values, vt = jnp.linalg.svd(cross, full_matrices=False)
    k = num_components
    return Projections(product(maps, u[:, :k]), product(other_maps, vt[:k].T), values[:k])


def init_fourier_features(
    key: jax.Array | int, width: int, num_features: int, *, bandwidth: float | jax.Array
) -> FourierFeatures:
    """Draw waves for the Gaussian kernel of a view.

    Args:
      key: int seed or PRNG key; take another one for each view.
      width: d, of the view, static.
      num_features: M, static.
      bandwidth: > 0, of the kernel.

    Returns:
      `FourierFeatures`, for the rows of training and test set alike.

    Raises:
      TypeError: if a number of features is not a static int.
      ValueError: if a number is out of range.

    Examples:
      >>> init_fourier_features(0, 3, 100, bandwidth=2.0).frequencies.shape
      (3, 100)
    """
    check_count("width", width)
    check_count("num_features", num_features)
    check_number("bandwidth", bandwidth, 0, open_low=True)
    frequency_key, phase_key = jax.random.split(as_key(key))
    frequencies = jax.random.normal(frequency_key, (width, num_features)) / bandwidth
    return FourierFeatures(frequencies, jax.random.uniform(phase_key, (num_features,), maxval=2 * jnp.pi))


def fourier_features(features: FourierFeatures, x: jax.Array) -> jax.Array:
    """Return random features of rows; the product of those of two rows approximates their Gaussian kernel.

    Args:
      features: the waves, from `init_fourier_features`.
      x: `[N, d]`, floating point.

    Returns:
      `[N, M]`; the error of a product is about the square root of 1 / M.

    Raises:
      TypeError: if the rows are not floating point.
      ValueError: if shapes do not match.

    References:
      Rahimi and Recht, Random features for large-scale kernel machines, NIPS 2007.

    Examples:
      >>> x = jnp.array([[0.0], [2.0]])
      >>> z = fourier_features(init_fourier_features(0, 1, 20_000, bandwidth=1.0), x)
      >>> bool(jnp.max(jnp.abs(z @ z.T - gaussian_kernel(x, x, bandwidth=1.0))) < 0.02)
      True
    """
    check_shape("x", x, (None, features.frequencies.shape[0]))
    check_floating("x", x)
    waves = product(x, features.frequencies.astype(x.dtype)) + features.phases.astype(x.dtype)[None]
    return jnp.sqrt(2 / features.phases.shape[0]).astype(x.dtype) * jnp.cos(waves)


def _whitened(kernel, ridge):
    """Eigenvectors `[N, N]`, the deviation of each after whitening `[N]`, and maps of kernel rows to whitened rows."""
    rows = jnp.mean(kernel, axis=0)
    centered = kernel - rows[None, :] - rows[:, None] + jnp.mean(rows)
    values, vectors = jnp.linalg.eigh(centered)
    examples = max(len(kernel) - 1, 1)
    real = values > len(kernel) * jnp.finfo(kernel.dtype).eps * values[-1]  # rounding leaves the others
    values = jnp.where(real, values, 0)
    total = jnp.sum(values) / examples
    scale = jax.lax.rsqrt(values / examples + ridge * jnp.where(total > 0, total, 1))
    deviation = jnp.sqrt(values)
    maps = vectors * jnp.where(real, scale / jnp.where(real, deviation, 1), 0)[None, :]
    return vectors, scale * deviation / jnp.sqrt(jnp.asarray(examples, kernel.dtype)), maps
