"""Which unlabeled examples to label next: those whose balls cover most of the pool (ProbCover).

Each example covers those less than a radius away. The next one always covers most of those that no labeled example
covers yet. With few labels this beats unsure examples, of which a model that knows nothing has no idea; with many, all
is covered and nothing is left to say.

References:
  Yehuda et al., Active learning through a covering lens, NeurIPS 2022 (arXiv 2205.11320).

Method: ProbCover
Paper: 2205.11320
Experiment: active_texts, speed strategies
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_integer,
    check_number,
    check_shape,
)
from minibatch_jax._loops import bind, fori_loop, map_rows
from minibatch_jax.geometry import center, root, squared_distances, unit_rows
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.selection._labeled_rows import distances_to_any, labeled_or_none, pool_and_references
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.selection.assigned_rows import METRICS
from minibatch_jax.weights import KeyState, weight_transformation


class Cover(NamedTuple):
    """A greedy choice of k of N examples, in order.

    Attributes:
      indices: `[k]` int32, distinct; N, one past the end, where no example was left.
      gains: `[k]` int32, number of examples that each one covers and none before it did; 0 where no example was left.
      covered: `[N]` bool, which examples are less than the radius away from a chosen or labeled one.
    """

    indices: jax.Array
    gains: jax.Array
    covered: jax.Array


def prob_cover_indices(
    key: jax.Array | int,
    features: jax.Array,
    k: int,
    radius: float | jax.Array,
    *,
    metric: str = "cosine",
    where: jax.Array | None = None,
    labeled: jax.Array | None = None,
    block_size: int = 128,
) -> Cover:
    """Choose k examples one by one, always the one that covers most examples that are not covered yet.

    The greedy choice covers at least 1 - 1/e of what the best k examples cover. Ties, which are many once little is
    left to cover, are broken at random. The distances are computed twice, once to count and once where an example
    becomes covered: O(N^2 D) time, O(N (D + block_size)) memory.

    Args:
      key: int seed or key, for the ties.
      features: `[N, D]`, floating point; a row that is not finite, or whose squared norm overflows (except for
        "cosine"), is never chosen and need not be covered.
      k: how many to choose, 1 <= k <= N, static.
      radius: what the distance to a covered example must be below, positive. `largest_pure_radius` finds one.
      metric: "cosine" for the Euclidean distance between rows scaled to unit length, or "euclidean".
      where: `[N]` bool, which rows exist; all by default.
      labeled: `[N]` bool, rows that have a label: they cover others and are not chosen; none by default.
      block_size: rows at a time, static.

    Returns:
      `Cover(indices, gains, covered)`.

    Raises:
      TypeError: if the features are not floating point, a count is not a static int, a mask is not bool, the radius is
        no number or the key is no key.
      ValueError: if shapes do not match, a number is out of range or the metric is unknown.

    References:
      Yehuda et al., NeurIPS 2022 (arXiv 2205.11320).

    Examples:
      >>> rows = jnp.array([[0.0], [1.0], [2.0], [8.0], [9.0]])
      >>> found = prob_cover_indices(0, rows, 2, 1.5, metric="euclidean")
      >>> found.indices.tolist()[0], found.gains.tolist(), found.covered.tolist()
      (1, [3, 2], [True, True, True, True, True])
    """
    check_choice("metric", metric, METRICS)
    check_number("radius", radius, 0, open_low=True)
    check_count("block_size", block_size)
    rows, exists = usable_features(features, where, metric=metric)
    size = rows.shape[0]
    check_count("k", k, size, "the number of rows")
    rows = unit_rows(rows) if metric == "cosine" else rows
    before = labeled_or_none("labeled", labeled, exists)
    covered = exists & (distances_to_any(rows, before, "euclidean") < radius)
    radius = jnp.asarray(radius, rows.dtype)
    origin = center(jnp.where(exists[:, None], rows, jnp.nan))
    ball = rows, exists, origin, radius
    block = min(block_size, size)
    counted = bind(_count_block, ball, exists & ~covered, size=block)
    degrees = fori_loop(0, -(-size // block), counted, jnp.zeros(size, jnp.int32))
    luck = jax.random.permutation(as_key(key), jnp.arange(size, dtype=jnp.int32))
    free = exists & ~before
    state = jnp.full(k, size, jnp.int32), jnp.zeros(k, jnp.int32), degrees, covered, free
    indices, gains, _, covered, _ = fori_loop(0, k, bind(_take_largest, ball, luck, size=block), state)
    return Cover(indices, gains, covered)


def largest_pure_radius(
    features: jax.Array,
    clusters: jax.Array,
    *,
    purity: float = 0.95,
    metric: str = "cosine",
    where: jax.Array | None = None,
    block_size: int = 128,
) -> jax.Array:
    """Return the largest radius with which at least this fraction of the balls hold rows of one cluster only.

    This is the rule by which the paper chooses the radius, with one cluster for each class, such as those of
    `k_means_clusters(...).owners`. A ball is pure as long as the radius is at most the distance to the nearest row of
    another cluster, so the radius is a quantile of these distances. O(N^2 D) time, O(N (D + block_size)) memory; a few
    thousand rows of a large pool do.

    Args:
      features: `[N, D]`, floating point; rows that cannot be measured are absent.
      clusters: `[N]` int, the cluster of each row; a row with a negative one is absent.
      purity: fraction of the balls, in (0, 1].
      metric: "cosine" for the Euclidean distance between rows scaled to unit length, or "euclidean".
      where: `[N]` bool, which rows exist; all by default.
      block_size: rows at a time, static.

    Returns:
      `[]`, float32 (float64 if the features are); infinite if there is only one cluster, NaN if no row exists.

    Raises:
      TypeError: if the features are not floating point, the clusters not integers, the block size is not a static int,
        `where` is not bool or the purity is no number.
      ValueError: if shapes do not match, a number is out of range or the metric is unknown.

    References:
      Yehuda et al., NeurIPS 2022 (arXiv 2205.11320).

    Examples:
      >>> rows = jnp.array([[0.0], [1.0], [5.0], [7.0]])
      >>> float(largest_pure_radius(rows, jnp.array([0, 0, 1, 1]), purity=0.5, metric="euclidean"))
      5.0
    """
    check_choice("metric", metric, METRICS)
    check_number("purity", purity, 0, 1, open_low=True)
    check_count("block_size", block_size)
    check_shape("clusters", clusters, features.shape[:1])
    check_integer("clusters", clusters)
    rows, exists = usable_features(features, where, metric=metric)
    exists &= clusters >= 0
    rows = unit_rows(rows) if metric == "cosine" else rows
    origin = center(jnp.where(exists[:, None], rows, jnp.nan))
    look = bind(_distance_to_other, rows - origin[None], clusters, exists)
    distances = map_rows(look, (rows - origin[None], clusters), block_size=block_size)
    ascending = jnp.sort(jnp.where(exists, distances, jnp.inf))
    count = jnp.sum(exists, dtype=jnp.int32)
    impure = jnp.floor((1 - jnp.asarray(purity, rows.dtype)) * count.astype(rows.dtype) * (1 + 1e-6)).astype(jnp.int32)
    return jnp.where(count > 0, ascending[jnp.clip(impure, 0, jnp.maximum(count - 1, 0))], jnp.nan)


def keep_by_prob_cover(
    k: int, radius: float | jax.Array, key: jax.Array | int, *, metric: str = "cosine", block_size: int = 128
) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples that cover most of what no labeled example covers, weights unchanged (ProbCover).

    Signals: `features`, `reference_features` and `reference_labels`. Over the weights `[N]` of a pool, with 0 for what
    has a label, these are the next examples to label. The references are the labeled examples, and one whose label is
    negative is padding. If fewer than k examples have a weight, all of them are kept. Examples with a feature that is
    not finite, or with a squared norm that overflows (except for "cosine"), are never kept.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      radius: what the distance to a covered example must be below, positive.
      key: typed PRNG key or int seed, for the ties.
      metric: "cosine" for the Euclidean distance between rows scaled to unit length, or "euclidean".
      block_size: rows at a time, static.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, the features are not floating point.
      ValueError: if a number is out of range, the metric is unknown or, in `update`, k > N or the shapes of the signals
        do not match.

    References:
      Yehuda et al., NeurIPS 2022 (arXiv 2205.11320).

    Examples:
      >>> tx = keep_by_prob_cover(1, 1.5, key=0, metric="euclidean")
      >>> features = jnp.array([[0.0], [1.0], [2.0], [8.0]])
      >>> labeled = {"reference_features": jnp.array([[8.0]]), "reference_labels": jnp.array([0])}
      >>> tx.update(jnp.ones(4), tx.init(jnp.ones(4)), features=features, **labeled)[0].tolist()
      [0.0, 1.0, 0.0, 0.0]
    """
    check_count("k", k)
    check_number("radius", radius, 0, open_low=True)
    check_choice("metric", metric, METRICS)
    check_count("block_size", block_size)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, features, reference_features, reference_labels, **extra_args):
        check_count("k", k, weights.shape[0], "the number of examples")
        next_key, tie_key = jax.random.split(state.rng_key)
        rows, exists, labeled = pool_and_references(weights, features, reference_features, reference_labels)
        options = {"metric": metric, "where": exists, "labeled": labeled, "block_size": block_size}
        found = prob_cover_indices(tie_key, rows, k, radius, **options)
        return keep_rows(weights, found.indices), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _inside(ball, places):
    """Return which rows `[N]` are inside the balls around the rows at these places `[b]`: `[N, b]` bool."""
    rows, exists, origin, radius = ball
    others = rows[places]
    squared = squared_distances(rows, others, origin=origin)
    same = jnp.arange(rows.shape[0], dtype=jnp.int32)[:, None] == places[None]
    return (same | (root(squared) < radius)) & exists[:, None] & exists[places][None]


def _count_block(ball, counted, block, degrees, *, size):
    """Add to the degrees `[N]` what the rows of a block count, each row once."""
    places = block * size + jnp.arange(size, dtype=jnp.int32)
    real = places < degrees.shape[0]
    places = jnp.minimum(places, degrees.shape[0] - 1)
    return degrees + jnp.sum(_inside(ball, places) & (real & counted[places])[None], axis=1, dtype=jnp.int32)


def _take_largest(ball, luck, t, state, *, size):
    indices, gains, degrees, covered, free = state
    number = free.shape[0]
    most = jnp.max(jnp.where(free, degrees, -1))
    j = jnp.argmax(jnp.where(free & (degrees == most), luck, -1)).astype(jnp.int32)
    valid = most >= 0
    new = _inside(ball, j[None])[:, 0] & ~covered & valid
    count = jnp.sum(new, dtype=jnp.int32)
    order = jnp.argsort(~new, stable=True).astype(jnp.int32)
    lose = bind(_uncount_block, ball, order, count, size=size)
    degrees = fori_loop(0, (count + size - 1) // size, lose, degrees)
    indices = indices.at[t].set(jnp.where(valid, j, number))
    return indices, gains.at[t].set(count), degrees, covered | new, free.at[j].set(free[j] & ~valid)


def _uncount_block(ball, order, count, block, degrees, *, size):
    """Take from the degrees `[N]` what a block of the newly covered rows, the first ones in this order, counted."""
    slots = block * size + jnp.arange(size, dtype=jnp.int32)
    places = order[jnp.minimum(slots, order.shape[0] - 1)]
    return degrees - jnp.sum(_inside(ball, places) & (slots < count)[None], axis=1, dtype=jnp.int32)


def _distance_to_other(rows, clusters, exists, row):
    x, cluster = row
    squared = jnp.sum((rows - x[None]) ** 2, axis=1)
    return jnp.sqrt(jnp.min(jnp.where(exists & (clusters != cluster), squared, jnp.inf)))
