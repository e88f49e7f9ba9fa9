"""Distances and similarities between anchors and references, with finite gradients everywhere.

All are computed in float32 at least. An embedding that is not finite gives NaN in its row and column and a gradient of
0. The losses leave such pairs out.
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_number, check_shape
from minibatch_jax.geometry import cosines, finite_rows, product, root, squared_distances, unit_rows
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
    return _squared_distances(*_pair(embeddings, references)).astype(embeddings.dtype)


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
    return root(_squared_distances(*_pair(embeddings, references))).astype(embeddings.dtype)


def lp_distances(
    embeddings: jax.Array, references: jax.Array | None = None, *, p: float | jax.Array = 1.0
) -> jax.Array:
    """Return the L_p distance of each anchor to each reference: (sum |x - y|^p)^(1 / p); its gradient at 0 is 0.

    For p = 2, `euclidean_distances` takes one matrix product and is much faster. O(A M D) time; under `jit` no array of
    that size is formed.

    Args:
      embeddings: `[A, D]`, floating point.
      references: `[M, D]`, same dtype; the embeddings themselves by default.
      p: at least 1; `jnp.inf` for the largest difference.

    Returns:
      `[A, M]`, at least 0, in the dtype of the embeddings.

    Raises:
      TypeError: if an argument is not floating point or p is not a number.
      ValueError: if an argument is empty, not a matrix, the widths differ, or p is below 1.

    Examples:
      >>> x, y = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, -4.0], [0.0, 0.0]])
      >>> lp_distances(x, y).tolist(), lp_distances(x, y, p=jnp.inf).tolist()
      ([[7.0, 0.0]], [[4.0, 0.0]])
    """
    check_number("p", p, 1)
    (x, x_finite), (y, y_finite) = map(finite_rows, _pair(embeddings, references))
    apart = jnp.abs(x[:, None] - y[None])
    largest = jnp.max(apart, axis=2)
    differ = largest > 0
    unit = jax.lax.stop_gradient(jnp.where(differ, largest, 1))  # no power leaves the range of floats
    if not isinstance(p, jax.Array) and p == jnp.inf:
        found = jnp.where(differ, largest, 0)
    else:
        scaled = apart / unit[:, :, None]
        changed = scaled > 0
        total = jnp.sum(jnp.where(changed, jnp.where(changed, scaled, 1) ** p, 0), axis=2)
        found = jnp.where(differ, unit * jnp.where(differ, total, 1) ** (1 / p), 0)
    return jnp.where(x_finite[:, None] & y_finite[None, :], found, jnp.nan).astype(embeddings.dtype)


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
    return cosines(*_pair(embeddings, references)).astype(embeddings.dtype)


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
    (x, x_finite), (y, y_finite) = map(finite_rows, _pair(embeddings, references))
    finite = x_finite[:, None] & y_finite[None, :]
    return jnp.where(finite, product(x, y.T), jnp.nan).astype(embeddings.dtype)


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
    (x, x_finite), (y, y_finite) = map(finite_rows, _pair(embeddings, references))
    size = jnp.sum(x * x, axis=1)
    x, y = (v - jnp.mean(v, axis=1, keepdims=True) for v in (x, y))
    variation = jnp.sum(x * x, axis=1)
    varies = variation > 16 * jnp.finfo(x.dtype).eps ** 2 * size
    ratio = _squared_distances(x, y) / jnp.where(varies, variation, 1)[:, None]
    usable = (x_finite & varies)[:, None] & y_finite[None, :]
    return jnp.where(usable, ratio, jnp.nan).astype(embeddings.dtype)


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
    x, finite = finite_rows(embeddings)
    return jnp.where(finite[:, None], unit_rows(x), jnp.nan).astype(embeddings.dtype)


def _pair(embeddings: jax.Array, references: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Check both sides and return them in float32 at least."""
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    x = embeddings.astype(weight_dtype(embeddings.dtype))
    if references is None:
        return x, x
    check_shape("references", references, (None, embeddings.shape[1]))
    check_floating("references", references)
    return x, references.astype(weight_dtype(references.dtype))


def _squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    return squared_distances(x, y, floor=4 * float(jnp.finfo(x.dtype).eps))
