"""Which k items leave no item far away: greedy k-center, the farthest item first.

The cost of a set is the largest distance of an item to the set. Farthest-first reaches at most twice the least cost,
and no polynomial algorithm does better in general, unless P = NP.

References:
  Gonzalez, Clustering to minimize the maximum intercluster distance, 1985.
  Sener & Savarese, Active learning for convolutional neural networks, ICLR 2018 (arXiv 1708.00489).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_bool, check_choice, check_count, check_shape
from minibatch_jax._vector import first_max
from minibatch_jax.base import weight_transformation
from minibatch_jax.selection._similarity import unit_rows, usable_features

CENTER_METRICS = ("euclidean", "cosine")


class Centers(NamedTuple):
    """A greedy choice of k of N items, in order.

    Attributes:
      indices: `[k]` int32, distinct; N, one past the end, where no item was left.
      radii: `[k]`, distance of each to those before it, falling; infinite for the first, 0 where no item was left.
      owners: `[N]` int32, place in `indices` of the nearest center of each item.
      radius: `[]`, largest distance of an item to its center: the cost.
    """

    indices: jax.Array
    radii: jax.Array
    owners: jax.Array
    radius: jax.Array


def k_center(
    features: jax.Array,
    k: int,
    *,
    metric: str = "euclidean",
    where: jax.Array | None = None,
    chosen: jax.Array | None = None,
) -> Centers:
    """Choose k of N items so that the farthest is near: always the item farthest from those chosen.

    The first is the item nearest to the mean, unless `chosen` holds some. O(k N D) time, O(N D) memory; ties go to the
    lowest index.

    Args:
      features: `[N, D]`, floating point; a row that is not finite neither counts nor is chosen.
      k: how many to choose, 1 <= k <= N, static.
      metric: "euclidean", or "cosine" for the distance of rows brought to unit length.
      where: `[N]` bool, which rows exist; all by default.
      chosen: `[N]` bool, items chosen before, such as the labeled ones, which are not chosen again; none by default.

    Returns:
      Indices, radii, owners and radius. Owners are of the new centers alone.

    Raises:
      TypeError: if the features are not floating point or k is not a static int.
      ValueError: if shapes do not match, k is not in [1, N] or the metric is unknown.

    Examples:
      >>> centers = k_center(jnp.array([[0.0], [1.0], [2.0], [9.0], [3.0]]), 2)
      >>> centers.indices.tolist(), centers.owners.tolist(), float(centers.radius)
      ([4, 3], [0, 0, 0, 1, 0], 3.0)
    """
    points, exists = _points(features, metric, where)
    size = points.shape[0]
    check_count("k", k, size, "the number of rows")
    allowed, first = exists, -_distances_to_mean(points, exists)
    nearest = jnp.full(size, jnp.inf, points.dtype)
    if chosen is not None:
        check_shape("chosen", chosen, (size,))
        check_bool("chosen", chosen)
        before = chosen & exists
        allowed &= ~before
        nearest = _distances_to_any(points, before)
        first = jnp.where(jnp.any(before), nearest, first)

    def step(t, state):
        centers, nearest, nearest_new, allowed = state
        score, j = first_max(jnp.where(allowed, jnp.where(t == 0, first, nearest), -jnp.inf))
        valid = score > -jnp.inf
        distances = jnp.where(valid, distances_to(points, points[j]), jnp.inf)
        closer = distances < nearest_new
        centers = Centers(
            centers.indices.at[t].set(jnp.where(valid, j, size)),
            centers.radii.at[t].set(jnp.where(valid, nearest[j], 0)),
            jnp.where(closer, t, centers.owners),
            centers.radius,
        )
        return centers, jnp.minimum(nearest, distances), jnp.minimum(nearest_new, distances), allowed.at[j].set(False)

    nothing = Centers(jnp.zeros(k, jnp.int32), jnp.zeros(k, points.dtype), jnp.zeros(size, jnp.int32), nearest[0])
    state = nothing, nearest, jnp.full(size, jnp.inf, points.dtype), allowed
    centers, nearest, _, _ = jax.lax.fori_loop(0, k, step, state)
    return centers._replace(radius=jnp.max(jnp.where(exists, nearest, 0)))


def select_centers(
    k: int, *, metric: str = "euclidean", weighted: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples that leave no example of the batch far away. Signal: `features` [B, D].

    It covers outliers first: good for rare cases, bad under noise.

    Args:
      k: how many to keep, static.
      metric: "euclidean" or "cosine".
      weighted: whether a kept example takes over the weights of those nearest to it, which keeps the mass of the batch;
        if False it keeps its own.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if k is not a static int.
      ValueError: if the metric is unknown or, in `update`, k > B.

    References:
      Sener & Savarese, ICLR 2018 (arXiv 1708.00489).

    Examples:
      >>> tx = select_centers(2)
      >>> features = jnp.array([[0.0], [1.0], [2.0], [9.0], [3.0]])
      >>> tx.update(jnp.ones(5), tx.init(jnp.ones(5)), features=features)[0].tolist()
      [0.0, 0.0, 0.0, 1.0, 4.0]
    """
    check_count("k", k)
    check_choice("metric", metric, CENTER_METRICS)

    def update(weights, state, params=None, *, features, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        exists = (weights != 0) & jnp.isfinite(features).all(1)
        centers = k_center(features, k, metric=metric, where=exists)
        kept = jnp.zeros_like(weights).at[centers.indices]
        if not weighted:
            return kept.set(1, mode="drop") * weights, state
        owned = jnp.zeros(k, weights.dtype).at[centers.owners].add(jnp.where(exists, weights, 0))
        return kept.set(owned, mode="drop"), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def distances_to(points: jax.Array, center: jax.Array) -> jax.Array:
    """Euclidean distance of each row to one, by differences: 0 for an equal row."""
    return jnp.sqrt(jnp.sum((points - center[None]) ** 2, 1))


def _points(features: jax.Array, metric: str, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    check_choice("metric", metric, CENTER_METRICS)
    points, exists = usable_features(features, where)
    return unit_rows(points) if metric == "cosine" else points, exists


def _distances_to_mean(points: jax.Array, exists: jax.Array) -> jax.Array:
    count = jnp.maximum(jnp.sum(exists, dtype=points.dtype), 1)
    return distances_to(points, jnp.sum(jnp.where(exists[:, None], points, 0), 0) / count)


def _distances_to_any(points: jax.Array, chosen: jax.Array) -> jax.Array:
    """Distance of each row to the nearest chosen one, infinite if none is, one chosen row at a time."""
    order = jnp.argsort(~chosen, stable=True)

    def step(i, nearest):
        return jnp.minimum(nearest, distances_to(points, points[order[i]]))

    nowhere = jnp.full(points.shape[0], jnp.inf, points.dtype)
    return jax.lax.fori_loop(0, jnp.sum(chosen, dtype=jnp.int32), step, nowhere)
