"""Which center is nearest to each row, in blocks, without the matrix of all distances.

Method: rows assigned to centers
Experiment: subsets_of_a_pool
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_count, check_floating, check_shape
from minibatch_jax._loops import bind, map_rows
from minibatch_jax.geometry import center, measurable_rows, squared_distances, unit_rows
from minibatch_jax.selection._similarities import usable_features

METRICS = ("euclidean", "cosine")


class RowAssignment(NamedTuple):
    """The nearest center of each row.

    Attributes:
      indices: `[N]` int32, number of the nearest center; -1 for a row that is not finite.
      distances: `[N]`, Euclidean distance to this center; NaN where the number is -1.
    """

    indices: jax.Array
    distances: jax.Array


def assign_rows(
    features: jax.Array,
    centers: jax.Array,
    *,
    metric: str = "euclidean",
    where: jax.Array | None = None,
    block_size: int = 4096,
) -> RowAssignment:
    """Return the nearest center of each row; ties go to the lowest index.

    Count the rows of each center with `jnp.bincount(indices, length=k)` over those that are not -1.
    For rows in a file, use `pool.assign_rows`. O(N k D) time, O(block_size k + N D) memory.

    Args:
      features: `[N, D]`, floating point.
      centers: `[k, D]`, floating point, such as `features[indices]`. A center that is not finite is nearest to none.
      metric: "euclidean", or "cosine" for the Euclidean distance between rows scaled to unit length.
      where: `[N]` bool, which rows exist; the others get -1; all by default.
      block_size: rows at a time, static.

    Returns:
      `RowAssignment(indices, distances)`. Every index is -1 if no center is finite.

    Raises:
      TypeError: if the features or centers are not floating point, the block size is not a static int or `where` is not
        bool.
      ValueError: if shapes do not match, the metric is unknown or the block size is below 1.

    Examples:
      >>> found = assign_rows(jnp.array([[0.0], [9.0], [jnp.nan], [5.0]]), jnp.array([[1.0], [9.0]]))
      >>> found.indices.tolist(), found.distances.tolist()
      ([0, 1, -1, 0], [1.0, 0.0, nan, 4.0])
    """
    check_choice("metric", metric, METRICS)
    check_count("block_size", block_size)
    check_floating("centers", centers)
    rows, exists = usable_features(features, where, metric=metric)
    check_shape("centers", centers, (None, rows.shape[1]))
    centers, usable = measurable_rows(centers.astype(rows.dtype))
    if metric == "cosine":
        rows, centers = unit_rows(rows), unit_rows(centers)
    size = rows.shape[0]
    block = min(block_size, size)
    blocks = jnp.pad(rows, ((0, -size % block), (0, 0))).reshape(-1, block, rows.shape[1])
    index, distance = map_rows(bind(_nearest_of_block, centers, usable, center(centers, rows)), blocks)
    index, distance = index.reshape(-1)[:size], distance.reshape(-1)[:size]
    assigned = exists & jnp.any(usable)
    return RowAssignment(jnp.where(assigned, index, -1), jnp.where(assigned, distance, jnp.nan))


def _nearest_of_block(
    centers: jax.Array, usable: jax.Array, origin: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Number of the nearest center of each row, and the distance to it from the difference, which does not cancel."""
    squared = squared_distances(rows, centers, origin=origin)
    index = jnp.argmin(jnp.where(usable[None], squared, jnp.inf), axis=1).astype(jnp.int32)
    return index, jnp.sqrt(jnp.sum((rows - centers[index]) ** 2, axis=1))
