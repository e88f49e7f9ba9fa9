"""Distances and similarities between anchors and references, with finite gradients everywhere.

All are computed in float32 at least. An embedding that is not finite gives NaN in its row and column and a gradient of
0. The losses leave such pairs out.
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax.weights import weight_dtype


def squared_euclidean_distances(embeddings: jax.Array, references: jax.Array | None = None) -> jax.Array:
    """Return the squared distance of each anchor to each reference, by one matrix product.

    Differences below the rounding error of the product count as 0, and so does their gradient.

    Args:
      embeddings: `[A, D]`, floating point.
      references: `[M, D]`, same dtype; the embeddings themselves by default.

    Returns:
      `[A, M]`, at least 0, in the dtype of the embeddings.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if an argument is empty, not a matrix, or the widths differ.

    Examples:
      >>> squared_euclidean_distances(jnp.array([[0.0, 0.0], [3.0, 4.0]])).tolist()
      [[0.0, 25.0], [25.0, 0.0]]
    """
    x, y, finite = _pair(embeddings, references)
    return _nan_outside(finite, _squared_distances(x, y), embeddings.dtype)


def euclidean_distances(embeddings: jax.Array, references: jax.Array | None = None) -> jax.Array:
    """Return the distance of each anchor to each reference; its gradient at duplicates is 0, not NaN.

    Args:
      embeddings: `[A, D]`, floating point.
      references: `[M, D]`, same dtype; the embeddings themselves by default.

    Returns:
      `[A, M]`, at least 0, in the dtype of the embeddings.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if an argument is empty, not a matrix, or the widths differ.

    Examples:
      >>> euclidean_distances(jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
      [[5.0, 0.0]]
    """
    x, y, finite = _pair(embeddings, references)
    squared = _squared_distances(x, y)
    apart = squared > 0
    distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1)), 0)
    return _nan_outside(finite, distances, embeddings.dtype)


def cosine_similarity(embeddings: jax.Array, references: jax.Array | None = None) -> jax.Array:
    """Return the cosine of the angle between each anchor and each reference; 0 where one of them is the zero vector.

    Args:
      embeddings: `[A, D]`, floating point, of any length.
      references: `[M, D]`, same dtype; the embeddings themselves by default.

    Returns:
      `[A, M]` in [-1, 1] up to rounding, in the dtype of the embeddings.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if an argument is empty, not a matrix, or the widths differ.

    Examples:
      >>> cosine_similarity(jnp.array([[2.0, 0.0]]), jnp.array([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])).tolist()
      [[1.0, 0.0, -1.0]]
    """
    x, y, finite = _pair(embeddings, references)
    cosines = jnp.matmul(_unit(x), _unit(y).T, precision="highest")
    return _nan_outside(finite, cosines, embeddings.dtype)


def dot_product_similarity(embeddings: jax.Array, references: jax.Array | None = None) -> jax.Array:
    """Return the inner product of each anchor and each reference.

    Args:
      embeddings: `[A, D]`, floating point.
      references: `[M, D]`, same dtype; the embeddings themselves by default.

    Returns:
      `[A, M]`, in the dtype of the embeddings.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if an argument is empty, not a matrix, or the widths differ.

    Examples:
      >>> dot_product_similarity(jnp.array([[2.0, 1.0]]), jnp.array([[3.0, 0.0], [0.0, -1.0]])).tolist()
      [[6.0, -1.0]]
    """
    x, y, finite = _pair(embeddings, references)
    return _nan_outside(finite, jnp.matmul(x, y.T, precision="highest"), embeddings.dtype)


def noise_ratio_distances(embeddings: jax.Array, references: jax.Array | None = None) -> jax.Array:
    """Return the variance of the difference over that of the anchor, an inverse signal-to-noise ratio.

    The result is not symmetric. An anchor whose entries are all alike has no variance: its distances are NaN.

    Args:
      embeddings: `[A, D]`, floating point.
      references: `[M, D]`, same dtype; the embeddings themselves by default.

    Returns:
      `[A, M]`, at least 0, in the dtype of the embeddings.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if an argument is empty, not a matrix, or the widths differ.

    References:
      Yuan et al., Signal-to-noise ratio: a robust distance metric for deep metric learning, 2019 (arXiv 1904.02616).

    Examples:
      >>> noise_ratio_distances(jnp.array([[0.0, 2.0]]), jnp.array([[2.0, 2.0]])).tolist()
      [[1.0]]
    """
    x, y, finite = _pair(embeddings, references)
    size = jnp.sum(x * x, axis=1)
    x, y = (v - jnp.mean(v, axis=1, keepdims=True) for v in (x, y))
    variation = jnp.sum(x * x, axis=1)
    varies = variation > 16 * jnp.finfo(x.dtype).eps ** 2 * size
    ratio = _squared_distances(x, y) / jnp.where(varies, variation, 1)[:, None]
    return _nan_outside(finite & varies[:, None], ratio, embeddings.dtype)


def normalize_embeddings(embeddings: jax.Array) -> jax.Array:
    """Scale each row to Euclidean length 1; a zero row stays zero and has gradient 0.

    Args:
      embeddings: `[A, D]`, floating point.

    Returns:
      `[A, D]`, in the dtype of the embeddings.

    Raises:
      TypeError: if the embeddings are not floating point.
      ValueError: if they are empty or not a matrix.

    Examples:
      >>> normalize_embeddings(jnp.array([[3.0, 0.0], [0.0, 0.0]])).tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    """
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    x, finite = _finite_rows(embeddings)
    return _nan_outside(finite[:, None], _unit(x), embeddings.dtype)


def _pair(embeddings: jax.Array, references: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both sides with 0 in rows that are not finite, and the pairs `[A, M]` without such a row."""
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    x, x_finite = _finite_rows(embeddings)
    if references is None:
        return x, x, x_finite[:, None] & x_finite[None, :]
    check_shape("references", references, (None, embeddings.shape[1]))
    check_floating("references", references)
    y, y_finite = _finite_rows(references)
    return x, y, x_finite[:, None] & y_finite[None, :]


def _finite_rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    finite = jnp.all(jnp.isfinite(x), axis=1)
    return jnp.where(finite[:, None], x, 0).astype(weight_dtype(x.dtype)), finite


def _nan_outside(finite: jax.Array, values: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jnp.where(finite, values, jnp.nan).astype(dtype)


def _squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    scale = jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1)[None, :]
    squared = scale - 2 * jnp.matmul(x, y.T, precision="highest")
    return jnp.where(squared <= 4 * jnp.finfo(x.dtype).eps * scale, 0, squared)


def _unit(x: jax.Array) -> jax.Array:
    """Rows of length 1; divided by their largest entry first, so that no square leaves the range of floats."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=1, keepdims=True))
    nonzero = largest >= jnp.finfo(x.dtype).tiny
    scaled = jnp.where(nonzero, x / jnp.where(nonzero, largest, 1), 0)
    squared = jnp.sum(scaled * scaled, axis=1, keepdims=True)
    return scaled * jax.lax.rsqrt(jnp.where(nonzero, squared, 1))
