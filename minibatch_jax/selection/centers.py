"""Which k items leave no item far away: greedy k-center, the farthest item first.

The cost of a set is the largest distance of an item to the set. The cost of the greedy choice is at most twice the
least cost, and no polynomial algorithm guarantees less, unless P = NP.

References:
  Gonzalez, Clustering to minimize the maximum intercluster distance, 1985.
  Sener & Savarese, Active learning for convolutional neural networks, ICLR 2018 (arXiv 1708.00489).

Method: k-center (core-set)
Paper: 1708.00489
Experiment: speed facility_location, active_texts, speed strategies
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import first_max
from minibatch_jax.geometry import unit_rows
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.selection._labeled_rows import (
    distances_to,
    distances_to_any,
    labeled_or_none,
    pool_and_references,
)
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.weights import weight_transformation

CENTER_METRICS = ("euclidean", "cosine", "l1", "linf")


class Centers(NamedTuple):
    """A greedy choice of k of N items, in order.

    Attributes:
      indices: `[k]` int32, distinct; N, one past the end, where no item was left.
      radii: `[k]`, distance of each center to the centers before it, falling; infinite for the first unless items were
        chosen earlier, 0 where no item was left.
      owners: `[N]` int32, place in `indices` of the nearest center of each item; -1 for an item that is absent, or if
        no item was left to choose.
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
    """Choose k of N items so that no item is far from a chosen one: always the item farthest from those chosen.

    The first choice is the item nearest to the mean, or, if `chosen` has any items, the item farthest from these. Ties
    go to the lowest index. O(k N D) time, O(N D) memory.

    Args:
      features: `[N, D]`, floating point; a row that is not finite, or whose squared norm overflows (except for
        "cosine"), is never chosen and need not be covered.
      k: how many to choose, 1 <= k <= N, static.
      metric: "euclidean", "cosine" for the Euclidean distance between rows scaled to unit length, "l1" for the sum of
        the absolute differences, or "linf" for the largest one.
      where: `[N]` bool, which rows exist; all by default.
      chosen: `[N]` bool, items chosen earlier, such as labeled ones, which are not chosen again; none by default.

    Returns:
      Indices `[k]`, radii `[k]`, owners `[N]` and radius `[]`. The radius counts the items in `chosen` as centers; the
      owners are new centers only, and -1 for rows that are absent.

    Raises:
      TypeError: if the features are not floating point, k is not a static int or a mask is not bool.
      ValueError: if shapes do not match, k is not in [1, N] or the metric is unknown.

    References:
      Gonzalez, 1985. Sener & Savarese, ICLR 2018 (arXiv 1708.00489).

    Examples:
      >>> centers = k_center(jnp.array([[0.0], [1.0], [2.0], [9.0], [3.0]]), 2)
      >>> centers.indices.tolist(), centers.owners.tolist(), float(centers.radius)
      ([4, 3], [0, 0, 0, 1, 0], 3.0)
    """
    points, exists = _points(features, metric, where)
    size = points.shape[0]
    check_count("k", k, size, "the number of rows")
    allowed, first = exists, -_distances_to_mean(points, exists, metric)
    nearest = jnp.full(size, jnp.inf, points.dtype)
    if chosen is not None:
        before = labeled_or_none("chosen", chosen, exists)
        allowed &= ~before
        nearest = distances_to_any(points, before, metric)
        first = jnp.where(jnp.any(before), nearest, first)
    nobody = jnp.full(size, -1, jnp.int32)
    nothing = Centers(jnp.zeros(k, jnp.int32), jnp.zeros(k, points.dtype), nobody, nearest[0])
    state = nothing, nearest, jnp.full(size, jnp.inf, points.dtype), allowed
    centers, nearest, _, _ = fori_loop(0, k, bind(_take_farthest, points, first, metric=metric), state)
    owners = jnp.where(exists, centers.owners, -1)
    return centers._replace(owners=owners, radius=jnp.max(jnp.where(exists, nearest, 0)))


def keep_centers(
    k: int, *, metric: str = "euclidean", weighting: str = "represented"
) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples that leave no example of the batch far away. Signal: `features` [B, D].

    The choice covers outliers first: this helps with rare cases and hurts with noisy data. Examples with a feature that
    is not finite, or with a squared norm that overflows (except for "cosine"), get weight 0.

    Args:
      k: how many to keep, 1 <= k <= B, static.
      metric: "euclidean", "cosine" for the Euclidean distance between rows scaled to unit length, "l1" for the sum of
        the absolute differences, or "linf" for the largest one.
      weighting: what a kept example weighs: "represented", the weights of all that it stands for, which keeps the mass
        of the batch, or "own", as it came.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if k is not a static int or, in `update`, the features are not floating point.
      ValueError: if the metric is unknown or, in `update`, k > B or the features are not `[B, D]`.

    References:
      Sener & Savarese, ICLR 2018 (arXiv 1708.00489).

    Examples:
      >>> tx = keep_centers(2)
      >>> features = jnp.array([[0.0], [1.0], [2.0], [9.0], [3.0]])
      >>> tx.update(jnp.ones(5), tx.init(jnp.ones(5)), features=features)[0].tolist()
      [0.0, 0.0, 0.0, 1.0, 4.0]
    """
    check_choice("weighting", weighting, ("own", "represented"))
    check_count("k", k)
    check_choice("metric", metric, CENTER_METRICS)

    def update(weights, state, params=None, *, features, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        _, exists = usable_features(features, weights != 0, metric=metric)
        centers = k_center(features, k, metric=metric, where=exists)
        kept = jnp.zeros_like(weights).at[centers.indices]
        if weighting == "own":
            return kept.set(1, mode="drop") * weights, state
        owners = jnp.where(centers.owners < 0, k, centers.owners)
        owned = jnp.zeros(k, weights.dtype).at[owners].add(weights, mode="drop")
        return kept.set(owned, mode="drop"), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def keep_new_centers(k: int, *, metric: str = "euclidean") -> optax.GradientTransformationExtraArgs:
    """Keep the k examples that, with those labeled already, leave no example far away, weights unchanged (core-set).

    Signals: `features`, `reference_features` and `reference_labels`. Over the weights `[N]` of a pool, with 0 for what
    has a label, these are the next examples to label. The references are the labeled examples, and one whose label is
    negative is padding; without any, the first choice is the example nearest to the mean. Examples with a feature that
    is not finite, or with a squared norm that overflows (except for "cosine"), are never kept.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      metric: "euclidean", "cosine" for the Euclidean distance between rows scaled to unit length, "l1" for the sum of
        the absolute differences, or "linf" for the largest one.

    Returns:
      A transformation over `[N]` weights.

    Raises:
      TypeError: if k is not a static int or, in `update`, the features are not floating point.
      ValueError: if the metric is unknown, k < 1 or, in `update`, k > N or the shapes of the signals do not match.

    References:
      Sener & Savarese, ICLR 2018 (arXiv 1708.00489).

    Examples:
      >>> tx = keep_new_centers(1)
      >>> features = jnp.array([[0.0], [1.0], [9.0]])
      >>> labeled = {"reference_features": jnp.array([[8.0]]), "reference_labels": jnp.array([0])}
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), features=features, **labeled)[0].tolist()
      [1.0, 0.0, 0.0]
    """
    check_count("k", k)
    check_choice("metric", metric, CENTER_METRICS)

    def update(weights, state, params=None, *, features, reference_features, reference_labels, **extra_args):
        check_count("k", k, weights.shape[0], "the number of examples")
        rows, exists, labeled = pool_and_references(weights, features, reference_features, reference_labels)
        return keep_rows(weights, k_center(rows, k, metric=metric, where=exists, chosen=labeled).indices), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def _take_farthest(points, first, t, state, *, metric):
    centers, nearest, nearest_new, allowed = state
    score, j = first_max(jnp.where(allowed, jnp.where(t == 0, first, nearest), -jnp.inf))
    valid = score > -jnp.inf
    distances = jnp.where(valid, distances_to(points, points[j], metric), jnp.inf)
    closer = distances < nearest_new
    centers = Centers(
        centers.indices.at[t].set(jnp.where(valid, j, points.shape[0])),
        centers.radii.at[t].set(jnp.where(valid, nearest[j], 0)),
        jnp.where(closer, t, centers.owners),
        centers.radius,
    )
    return centers, jnp.minimum(nearest, distances), jnp.minimum(nearest_new, distances), allowed.at[j].set(False)


def _points(features: jax.Array, metric: str, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    check_choice("metric", metric, CENTER_METRICS)
    points, exists = usable_features(features, where, metric=metric)
    return unit_rows(points) if metric == "cosine" else points, exists


def _distances_to_mean(points: jax.Array, exists: jax.Array, metric: str) -> jax.Array:
    count = jnp.maximum(jnp.sum(exists, dtype=points.dtype), 1)
    return distances_to(points, jnp.sum(jnp.where(exists[:, None], points, 0), 0) / count, metric)
