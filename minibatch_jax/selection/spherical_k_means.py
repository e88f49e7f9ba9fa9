"""Streaming spherical k-means: clusters of rows by their cosine, from one batch of rows after another.

A center is the running mean of the unit rows that it was nearest to, scaled to length 1 after each batch. The start is
k-means++ on one batch. A center that no row was ever nearest to moves to the row of the batch that is farthest from all
centers. What the clusters hold is then looked at, and clusters of junk are left out: see `cluster_report` and
`cluster_quotas`.

References:
  Sculley, Web-scale k-means clustering, WWW 2010.
  Arthur & Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
  Kaddour, The MiniPile challenge for data-efficient language models, 2023 (arXiv 2304.08442).

Method: streaming spherical k-means
Paper: 2304.08442
Experiment: clean_pool
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_integer, check_shape, mask_or_all
from minibatch_jax._loops import bind
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.geometry import unit_rows
from minibatch_jax.selection._cluster_steps import batch_sums, closest_pairs, moved_centers, reseeded_centers
from minibatch_jax.selection._seeding import spread_draws
from minibatch_jax.selection._similarities import usable_features


class ClusterState(NamedTuple):
    """Clusters after some batches.

    Attributes:
      centers: `[K, D]`, unit rows.
      counts: `[K]` int32, rows that each center was nearest to so far, since it was last moved; 0 for a center that was
        never nearest to one.
      reseeded: `[]` int32, how many empty clusters were moved to the farthest row so far.
      dropped: `[]` int32, how many rows did not count so far, because they are not finite.
    """

    centers: jax.Array
    counts: jax.Array
    reseeded: jax.Array
    dropped: jax.Array


def init_clusters(features: jax.Array, k: int, key: jax.Array | int, *, where: jax.Array | None = None) -> ClusterState:
    """Return k centers among the rows of a first batch, drawn by k-means++ among the unit rows.

    The first is drawn uniformly, each next one with a probability that grows with the squared distance to the nearest
    center so far. If fewer than k rows differ, some centers are equal, and their clusters stay empty. No row is counted
    yet: give this batch to `update_clusters`, too. O(N k D) time.

    Args:
      features: `[N, D]`, floating point; rows that are not finite, and rows of zeros, are never drawn.
      k: number of clusters, at most N, static.
      key: int seed or key.
      where: `[N]` bool, which rows exist; all by default.

    Returns:
      `ClusterState(centers, counts, reseeded, dropped)`.

    Raises:
      TypeError: if the features are not floating point, `where` is not bool, k is not a static int or the key is no
        key.
      ValueError: if shapes do not match or k is not in [1, N].

    References:
      Arthur & Vassilvitskii, SODA 2007.

    Examples:
      >>> init_clusters(jnp.array([[2.0, 0.0], [3.0, 0.0], [0.0, 4.0]]), 2, key=0).centers.sum(0).tolist()
      [1.0, 1.0]
    """
    rows, exists = usable_features(features, where, metric="cosine")
    check_count("k", k, rows.shape[0], "the number of rows")
    rows = unit_rows(rows)
    exists &= jnp.any(rows != 0, axis=1)
    distances = bind(_squared_distances_to, rows)
    drawn = spread_draws(as_key(key), distances, jnp.ones(rows.shape[0], rows.dtype), exists, k)
    centers = rows[jnp.where(drawn < rows.shape[0], drawn, drawn[0] % rows.shape[0])]
    zero = jnp.zeros((), jnp.int32)
    return ClusterState(centers, jnp.zeros(k, jnp.int32), zero, zero)


def update_clusters(state: ClusterState, features: jax.Array, *, where: jax.Array | None = None) -> ClusterState:
    """Return the clusters after one more batch of rows.

    With m rows of the batch nearest to a center c, whose sum is s, and n rows so far, these included,

        c <- c + (s - m c) / n, scaled to length 1.

    Ties go to the first center. A center with n = 0 moves to the row that is farthest from its own center, the next one
    to the next such row; it stays where it is if all rows are equal to their centers. O(B K D) time.

    Args:
      state: from `init_clusters`, or from the last call.
      features: `[B, D]`, floating point; rows that are not finite do not count.
      where: `[B]` bool, which rows exist; all by default.

    Returns:
      `ClusterState(centers, counts, reseeded, dropped)`.

    Raises:
      TypeError: if the features are not floating point or `where` is not bool.
      ValueError: if shapes do not match.

    References:
      Sculley, WWW 2010. Kaddour, 2023 (arXiv 2304.08442).

    Examples:
      >>> features = jnp.array([[2.0, 0.0], [3.0, 0.0], [0.0, 4.0], [jnp.nan, 0.0]])
      >>> state = update_clusters(init_clusters(features, 2, key=0), features)
      >>> sorted(state.counts.tolist()), int(state.reseeded), int(state.dropped)
      ([1, 2], 0, 1)
    """
    k, width = state.centers.shape
    check_shape("features", features, (None, width))
    given = mask_or_all("where", where, features.shape[:1])
    rows, exists = usable_features(features, where, metric="cosine")
    part = batch_sums(state.centers, rows, exists)
    centers, counts = moved_centers(state.centers, state.counts, part.sums, part.counts)
    farthest = min(k, rows.shape[0])
    distances, places = jax.lax.top_k(jnp.where(exists, part.distances, -1), farthest)
    centers, moved = reseeded_centers(centers, counts, unit_rows(rows[places]), distances)
    dropped = jnp.sum(given & ~exists, dtype=jnp.int32)
    return ClusterState(centers, counts, state.reseeded + moved, state.dropped + dropped)


class ClusterReport(NamedTuple):
    """What each cluster holds.

    Attributes:
      sizes: `[K]` int32, rows of each cluster.
      mean_distances: `[K]`, mean cosine distance (1 less the cosine) of its rows to the center; 0 for an empty one.
      examples: `[K, 2 number]` int32, its nearest rows, nearest first, then its farthest rows, farthest first, to look
        at; -1 where it has fewer.
      closest: `[K]`, smallest cosine distance of two of these examples; infinite with fewer than two. Near 0 for a
        cluster of near-duplicates.
    """

    sizes: jax.Array
    mean_distances: jax.Array
    examples: jax.Array
    closest: jax.Array


def cluster_report(
    features: jax.Array, clusters: jax.Array, distances: jax.Array, k: int, *, number: int = 5
) -> ClusterReport:
    """Return size, mean distance and examples of each cluster, and how near to each other the examples are.

    Args:
      features: `[N, D]`, floating point.
      clusters: `[N]` int, cluster of each row, -1 for none, as the `indices` of `assign_rows(..., metric="cosine")`.
      distances: `[N]`, floating point, distance of each unit row to its unit center, as `distances` of the same.
      k: number of clusters, static.
      number: how many nearest and how many farthest rows of each cluster to return, static.

    Returns:
      `ClusterReport(sizes, mean_distances, examples, closest)`.

    Raises:
      TypeError: if features or distances are not floating point, the clusters not integers or a count is not a static
        int.
      ValueError: if shapes do not match or a count is below 1.

    References:
      Kaddour, 2023 (arXiv 2304.08442).

    Examples:
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> report = cluster_report(features, jnp.array([0, 0, 1]), jnp.zeros(3), 2, number=2)
      >>> report.sizes.tolist(), report.examples.tolist(), report.closest.tolist()
      ([2, 1], [[0, 1, -1, -1], [2, -1, -1, -1]], [0.0, inf])
    """
    rows, _ = usable_features(features, metric="cosine")
    sizes, means, examples = cluster_examples(clusters, distances, k, number=number)
    check_shape("clusters", clusters, rows.shape[:1])
    chosen = unit_rows(rows[jnp.maximum(examples, 0).reshape(-1)]).reshape(*examples.shape, -1)
    return ClusterReport(sizes, means, examples, closest_pairs(chosen, examples >= 0))


def cluster_examples(
    clusters: jax.Array, distances: jax.Array, k: int, *, number: int = 5
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return sizes, mean cosine distances and examples of clusters, of rows that need not be in memory.

    Args:
      clusters: `[N]` int, cluster of each row, -1 for none.
      distances: `[N]`, floating point, distance of each unit row to its unit center.
      k: number of clusters, static.
      number: how many nearest and how many farthest rows of each cluster to return, static.

    Returns:
      `sizes`, `mean_distances` and `examples` of `ClusterReport`.

    Raises:
      TypeError: if the distances are not floating point, the clusters not integers or a count is not a static int.
      ValueError: if shapes do not match or a count is below 1.

    Examples:
      >>> clusters, distances = jnp.array([0, 0, 0, -1]), jnp.array([0.2, 0.0, 0.4, jnp.nan])
      >>> cluster_examples(clusters, distances, 1, number=1)[2].tolist()
      [[1, 2]]
    """
    check_shape("clusters", clusters, (None,))
    check_integer("clusters", clusters)
    check_shape("distances", distances, clusters.shape)
    check_count("k", k)
    check_count("number", number)
    size = clusters.shape[0]
    group = class_numbers(clusters, k)
    known = (group < k) & jnp.isfinite(distances)
    group = jnp.where(known, group, k)
    apart = jnp.where(known, distances.astype(jnp.float32), 0)
    sizes = jnp.zeros(k + 1, jnp.int32).at[group].add(1)[:k]
    sums = jnp.zeros(k + 1, jnp.float32).at[group].add(apart**2 / 2)[:k]
    group, _, order = jax.lax.sort((group, apart, jnp.arange(size, dtype=jnp.int32)), num_keys=2, is_stable=True)
    first = (jnp.cumsum(sizes) - sizes)[:, None]
    rank = jnp.arange(number, dtype=jnp.int32)[None]
    near = jnp.where(rank < sizes[:, None], first + rank, size)
    far = jnp.where(sizes[:, None] - 1 - rank >= number, first + sizes[:, None] - 1 - rank, size)
    examples = jnp.append(order, -1)[jnp.concatenate([near, far], axis=1)]
    return sizes, sums / nonzero(sizes.astype(jnp.float32)), examples


def _squared_distances_to(rows, j):
    return jnp.sum((rows - rows[j][None]) ** 2, axis=1)
