"""Distances and similarities between anchors and references, with finite gradients everywhere."""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_shape


def squared_euclidean_distances(embeddings: jax.Array, references: jax.Array | None = None) -> jax.Array:
    """Squared distance of each anchor to each reference, by one matrix product.

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
    x, y = _pair(embeddings, references)
    x_squared, y_squared = jnp.sum(x * x, axis=1)[:, None], jnp.sum(y * y, axis=1)[None, :]
    scale = x_squared + y_squared
    squared = scale - 2 * (x @ y.T)
    return jnp.where(squared <= 4 * jnp.finfo(x.dtype).eps * scale, jnp.zeros((), x.dtype), squared)


def euclidean_distances(embeddings: jax.Array, references: jax.Array | None = None) -> jax.Array:
    """Distance of each anchor to each reference; its gradient at duplicates is 0, not NaN.

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
    squared = squared_euclidean_distances(embeddings, references)
    apart = squared > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, jnp.ones_like(squared))), jnp.zeros_like(squared))


def cosine_similarity(embeddings: jax.Array, references: jax.Array | None = None) -> jax.Array:
    """Cosine of the angle between each anchor and each reference; 0 where one of them is the zero vector.

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
    x, y = _pair(embeddings, references)
    return normalize_embeddings(x) @ normalize_embeddings(y).T


def noise_ratio_distances(embeddings: jax.Array, references: jax.Array | None = None) -> jax.Array:
    """Variance of the difference over the variance of the anchor, an inverse signal-to-noise ratio; not symmetric.

    Args:
      embeddings: `[A, D]`, floating point, no constant rows.
      references: `[M, D]`, same dtype; the embeddings themselves by default.

    Returns:
      `[A, M]`, at least 0, in the dtype of the embeddings.

    Raises:
      TypeError: if an argument is not floating point.
      ValueError: if an argument is empty, not a matrix, or the widths differ.

    Examples:
      >>> noise_ratio_distances(jnp.array([[0.0, 2.0]]), jnp.array([[2.0, 2.0]])).tolist()
      [[1.0]]

    References:
      Yuan et al., Signal-to-noise ratio: a robust distance metric for deep metric learning, 2019 (arXiv 1904.02616).
    """
    x, y = (v - jnp.mean(v, axis=1, keepdims=True) for v in _pair(embeddings, references))
    return squared_euclidean_distances(x, y) / jnp.sum(x * x, axis=1, keepdims=True)


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
    squared = jnp.sum(embeddings * embeddings, axis=1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.where(squared > 0, squared, jnp.ones_like(squared)))
    return embeddings * jnp.where(squared > 0, inverse, jnp.zeros_like(squared))


def _pair(embeddings: jax.Array, references: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    if references is None:
        return embeddings, embeddings
    check_shape("references", references, (None, embeddings.shape[1]))
    check_floating("references", references)
    return embeddings, references
