"""Steps of streaming k-means, on rows in memory and on chunks of a pool: sums, centers that move, closest rows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._loops import map_rows
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import product, unit_rows
from minibatch_jax.weights import weight_dtype


class BatchSums(NamedTuple):
    """What a batch of rows adds to the clusters.

    Attributes:
      sums: `[K, D]`, sum of the unit rows nearest to each center.
      counts: `[K]` int32, how many these are.
      distances: `[B]`, cosine distance of each row to the nearest center; NaN for one that does not exist, and 0 for a
        row of zeros, which has no direction and makes no center.
    """

    sums: jax.Array
    counts: jax.Array
    distances: jax.Array


def batch_sums(centers: jax.Array, rows: jax.Array, exists: jax.Array) -> BatchSums:
    """Return the sums of the rows nearest to each center; parts of a batch may be summed one by one."""
    rows, k = unit_rows(rows), centers.shape[0]
    centers = centers.astype(rows.dtype)
    nearest = jnp.argmax(product(rows, centers.T), axis=1).astype(jnp.int32)
    distances = jnp.sum((rows - centers[nearest]) ** 2, axis=1) / 2  # does not cancel
    distances = jnp.where(jnp.any(rows != 0, axis=1), distances, 0)
    owner = jnp.where(exists, nearest, k)
    sums = jnp.zeros((k + 1, rows.shape[1]), rows.dtype).at[owner].add(rows)[:k]
    counts = jnp.zeros(k + 1, jnp.int32).at[owner].add(1)[:k]
    return BatchSums(sums, counts, jnp.where(exists, distances, jnp.nan))


def moved_centers(
    centers: jax.Array, counts: jax.Array, sums: jax.Array, added: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the centers and counts after more rows, of which the sums `[K, D]` and numbers `[K]` are given."""
    centers, sums = (x.astype(weight_dtype(x.dtype)) for x in (centers, sums))
    counts = counts + added
    more, total = added[:, None].astype(centers.dtype), nonzero(counts)[:, None].astype(centers.dtype)
    mean = unit_rows(centers + (sums - more * centers) / total)
    return jnp.where(jnp.any(mean != 0, axis=1, keepdims=True), mean, centers), counts


def reseeded_centers(
    centers: jax.Array, counts: jax.Array, candidates: jax.Array, distances: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the centers with those that have no row moved to the candidates, in turn, and how many were moved."""
    centers, candidates, distances = (x.astype(weight_dtype(x.dtype)) for x in (centers, candidates, distances))
    empty = counts == 0
    turn = jnp.cumsum(empty, dtype=jnp.int32) - 1
    place = jnp.minimum(turn, distances.shape[0] - 1)
    floor = 8 * jnp.finfo(distances.dtype).eps
    moved = empty & (turn < distances.shape[0]) & (distances[place] > floor)
    return jnp.where(moved[:, None], candidates[place], centers), jnp.sum(moved, dtype=jnp.int32)


def closest_pairs(rows: jax.Array, exists: jax.Array) -> jax.Array:
    """Return the smallest cosine distance of two unit rows of each cluster."""
    return map_rows(_closest_pair, (rows.astype(weight_dtype(rows.dtype)), exists))


def _closest_pair(cluster):
    rows, exists = cluster
    squares = jnp.sum((rows[:, None] - rows[None]) ** 2, axis=-1)  # does not cancel
    pair = exists[:, None] & exists[None] & ~jnp.eye(len(rows), dtype=bool)
    return jnp.min(jnp.where(pair, squares / 2, jnp.inf))
