"""Facility location in two stages, for large pools: medoids of each part first, then medoids of these medoids.

References:
  Mirzasoleiman et al., Distributed submodular maximization, NeurIPS 2013 (arXiv 1411.0541).

Method: facility location in two stages (GreeDi)
Paper: 1411.0541
Experiment: subsets_of_a_pool
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_shape, mask_or_all
from minibatch_jax._loops import bind, map_rows
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.selection.coresets import facility_location_from_features, medoid_weights


def partitioned_medoids(
    features: jax.Array, k: int, num_parts: int, *, metric: str = "sqeuclidean", where: jax.Array | None = None
) -> jax.Array:
    """Choose k of N items: k medoids of each part, then k of these, weighted by what they represent (GreeDi).

    The parts are consecutive rows, processed one after the other in O(N D + k num_parts D) memory. Shuffle the rows
    first, so that each part looks like the whole. Inside `shard_map`, run `facility_location_from_features` on each
    shard as the first stage instead, and gather k rows from each.

    Args:
      features: `[N, D]`, floating point, N a multiple of `num_parts`; a row that is not finite, or whose
        squared norm overflows (except for "cosine"), is never chosen.
      k: how many to choose, 1 <= k <= N / num_parts, static.
      num_parts: number of parts, at least 1, static.
      metric: similarity of two rows, "sqeuclidean", "euclidean", "l1" or "cosine", defined by `similarity_matrix`.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `[k]` int32, distinct; N where no item was left.

    Raises:
      TypeError: if the features are not floating point or a count is not a static int.
      ValueError: if N is not a multiple of `num_parts`, k is not in [1, N / num_parts], `where` is not `[N]` or the
        metric is unknown.

    References:
      Mirzasoleiman et al., NeurIPS 2013 (arXiv 1411.0541).

    Examples:
      >>> features = jnp.array([[0.0], [0.1], [5.0], [0.2], [5.1], [5.3]])
      >>> sorted(partitioned_medoids(features, k=2, num_parts=2).tolist())
      [3, 4]
    """
    check_shape("features", features, (None, None))
    check_count("num_parts", num_parts)
    size = features.shape[0]
    if size % num_parts:
        raise ValueError(f"features has {size} rows, wanted a multiple of num_parts = {num_parts}.")
    check_count("k", k, size // num_parts, "the number of rows of a part")
    where = mask_or_all("where", where, (size,))
    exists = usable_features(features, where, metric=metric)[1].reshape(num_parts, -1)
    parts = features.reshape(num_parts, -1, features.shape[1]), exists
    indices, weights = map_rows(bind(_medoids_of_part, k=k, metric=metric), parts)
    starts = jnp.arange(num_parts, dtype=jnp.int32)[:, None] * (size // num_parts)
    union = jnp.where(indices < size // num_parts, indices + starts, size).reshape(-1)
    found = union < size
    candidates = jnp.where(found[:, None], features[jnp.minimum(union, size - 1)], 0)
    best = facility_location_from_features(
        candidates, k, metric=metric, where=found, item_weights=jnp.where(found, weights.reshape(-1), 0)
    ).indices
    return jnp.append(union, size)[best]


def _medoids_of_part(part: tuple[jax.Array, jax.Array], *, k: int, metric: str) -> tuple[jax.Array, jax.Array]:
    """Return indices and weights of the medoids of one part."""
    rows, exists = part
    medoids = facility_location_from_features(rows, k, metric=metric, where=exists)
    return medoids.indices, medoid_weights(medoids, item_weights=exists.astype(medoids.gains.dtype))
