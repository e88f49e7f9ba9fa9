"""Penalties on embeddings, and on the vectors of classes, that are added to a loss of pairs.

With `value_and_grad` pass those of class vectors as `regularizer=`; those of embeddings belong into the items.

References:
  Wu et al., Deep face recognition with center invariant loss, 2017.
  Zhao et al., RegularFace: deep face recognition via exclusive regularization, CVPR 2019.
  Qian et al., SoftTriple loss, ICCV 2019 (arXiv 1909.05235).

Method: regularizers of embeddings and class vectors
Paper: 1909.05235
Experiment: wrong_label_search
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_number, check_shape, mask_or_all
from minibatch_jax.geometry import cosines, finite_rows, root
from minibatch_jax.mining._pairs import keeps_dtype
from minibatch_jax.mining.reductions import reduce_losses


@keeps_dtype
def length_penalty(
    embeddings: jax.Array, *, power: float | jax.Array = 1.0, where: jax.Array | None = None
) -> jax.Array:
    """Return the mean length of the embeddings, or of a power of it.

    Args:
      embeddings: `[B, D]`, floating point; a row that is not finite is left out.
      power: of the Euclidean length, positive; 2 gives the mean squared length.
      where: `[B]` bool, which rows count; all by default.

    Returns:
      `[]`, at least 0, in the dtype of the embeddings; its gradient at a zero row is 0.

    Raises:
      TypeError: if the embeddings are not floating point or the power is not a number.
      ValueError: if shapes do not match or the power is not positive.

    Examples:
      >>> float(length_penalty(jnp.array([[3.0, 4.0], [0.0, 1.0]])))
      3.0
    """
    check_number("power", power, 0, open_low=True)
    rows, exists = _rows("embeddings", embeddings, where)
    squared = jnp.sum(rows * rows, axis=1)
    apart = squared > 0
    return reduce_losses(jnp.where(apart, jnp.where(apart, squared, 1) ** (power / 2), 0), exists)


@keeps_dtype
def zero_sum_penalty(embeddings: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Return the mean over the embeddings of the absolute sum of the entries of each.

    Args:
      embeddings: `[B, D]`, floating point; a row that is not finite is left out.
      where: `[B]` bool, which rows count; all by default.

    Returns:
      `[]`, at least 0, in the dtype of the embeddings.

    Raises:
      TypeError: if the embeddings are not floating point.
      ValueError: if shapes do not match.

    Examples:
      >>> float(zero_sum_penalty(jnp.array([[3.0, -1.0], [-4.0, 0.0]])))
      3.0
    """
    rows, exists = _rows("embeddings", embeddings, where)
    return reduce_losses(jnp.abs(jnp.sum(rows, axis=1)), exists)


@keeps_dtype
def equal_length_penalty(centers: jax.Array) -> jax.Array:
    """Return a quarter of the variance of the squared lengths of class vectors, which rare classes have shorter.

    Args:
      centers: `[C, D]`, floating point, one vector for each class; a row that is not finite is left out.

    Returns:
      `[]`, at least 0, in the dtype of the centers.

    Raises:
      TypeError: if the centers are not floating point.
      ValueError: if the centers are not a matrix.

    References:
      Wu et al., Deep face recognition with center invariant loss, 2017.

    Examples:
      >>> float(equal_length_penalty(jnp.array([[2.0, 0.0], [0.0, 0.0]])))
      1.0
    """
    rows, exists = _rows("centers", centers, None)
    squared = jnp.sum(rows * rows, axis=1)
    return reduce_losses((squared - reduce_losses(squared, exists)) ** 2 / 4, exists)


@keeps_dtype
def nearest_center_penalty(centers: jax.Array) -> jax.Array:
    """Return the mean over the classes of the largest cosine of a class vector with another: push classes apart.

    Args:
      centers: `[C, D]`, floating point, one vector for each class; a row that is not finite is left out.

    Returns:
      `[]`, in [-1, 1], in the dtype of the centers; 0 for a single class.

    Raises:
      TypeError: if the centers are not floating point.
      ValueError: if the centers are not a matrix.

    References:
      Zhao et al., RegularFace: deep face recognition via exclusive regularization, CVPR 2019.

    Examples:
      >>> float(nearest_center_penalty(jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])))
      0.0
    """
    rows, exists = _rows("centers", centers, None)
    others = exists[:, None] & exists[None] & ~jnp.eye(rows.shape[0], dtype=bool)
    similar = jnp.where(others, cosines(rows, rows), -jnp.inf)
    nearest = jnp.argmax(jax.lax.stop_gradient(similar), axis=1)
    found = jnp.take_along_axis(jnp.where(others, similar, 0), nearest[:, None], axis=1)[:, 0]
    return reduce_losses(found, jnp.any(others, axis=1))


@keeps_dtype
def merge_penalty(centers: jax.Array) -> jax.Array:
    """Return half the mean distance between the centers of a class, scaled to length 1: superfluous centers merge.

    Add a multiple of it to the SoftTriple loss.

    Args:
      centers: `[C, K, D]`, floating point, K >= 2 centers of each class; a center that is not finite is left out.

    Returns:
      `[]`, at least 0, in the dtype of the centers; the gradient at equal centers is 0.

    Raises:
      TypeError: if the centers are not floating point.
      ValueError: if the centers are not `[C, K, D]` with K at least 2.

    References:
      Qian et al., SoftTriple loss, ICCV 2019 (arXiv 1909.05235).

    Examples:
      >>> float(merge_penalty(jnp.array([[[1.0, 0.0], [-3.0, 0.0]]])))
      1.0
    """
    check_shape("centers", centers, (None, None, None))
    check_floating("centers", centers)
    classes, count, width = centers.shape
    if count < 2:
        raise ValueError(f"centers has shape {list(centers.shape)}, wanted at least 2 centers of each class.")
    rows, exists = finite_rows(centers.reshape(-1, width))
    of_class = rows.reshape(classes, count, width)
    exists = exists.reshape(classes, count)
    pairs = exists[:, :, None] & exists[:, None] & (jnp.tri(count, k=-1) > 0)[None]
    squared = 2 - 2 * jnp.minimum(jax.vmap(cosines)(of_class, of_class), 1)
    return reduce_losses(root(jnp.where(pairs, squared, 0)), pairs) / 2


def _rows(name: str, x: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    check_shape(name, x, (None, None))
    check_floating(name, x)
    rows, finite = finite_rows(x)
    exists = finite & mask_or_all("where", where, x.shape[:1])
    return jnp.where(exists[:, None], rows, 0), exists
