"""Which unlabeled examples to label next: one from the middle of each cluster (embedding k-means).

Clusters by k-means of features in memory, and the example nearest to each center. It needs no model, so it can choose
the first examples of all.

References:
  Arthur & Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
  Yuan, Lin & Boyd-Graber, Cold-start active learning through self-supervised language modeling, EMNLP 2020 (arXiv
  2010.09535).

Method: embedding k-means
Paper: 2010.09535
Experiment: active_texts, speed strategies
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop, scan, while_loop
from minibatch_jax._vector import first_minima, vector_min
from minibatch_jax.geometry import center, product, unit_rows
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.selection._seeding import spread_draws
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.selection.assigned_rows import METRICS
from minibatch_jax.weights import KeyState, weight_transformation


class Clusters(NamedTuple):
    """Clusters of N rows around k centers.

    Attributes:
      centers: `[k, D]`, mean of the rows of each cluster, of rows scaled to unit length for "cosine"; NaN where fewer
        than k rows exist.
      owners: `[N]` int32, number of the nearest center of each row; -1 for a row that is absent.
      counts: `[k]` int32, number of rows of each cluster.
      cost: `[]`, sum of the squared distances of the rows to their centers.
      iterations: `[]` int32, how often the rows were assigned.
    """

    centers: jax.Array
    owners: jax.Array
    counts: jax.Array
    cost: jax.Array
    iterations: jax.Array


def k_means_clusters(
    key: jax.Array | int,
    features: jax.Array,
    k: int,
    *,
    metric: str = "euclidean",
    where: jax.Array | None = None,
    max_iterations: int = 50,
    tolerance: float = 1e-4,
    block_size: int = 4096,
) -> Clusters:
    """Cluster rows by Lloyd's algorithm from a start by k-means++, until the cost hardly falls.

    A center that loses all its rows stays where it is. Ties go to the lowest center. O(k N D) time for the start and
    for each iteration, O(block_size k + N D) memory.

    Args:
      key: int seed or key.
      features: `[N, D]`, floating point; a row that is not finite, or whose squared norm overflows (except for
        "cosine"), belongs to no cluster.
      k: number of clusters, 1 <= k <= N, static.
      metric: "euclidean", or "cosine" for the Euclidean distance between rows scaled to unit length.
      where: `[N]` bool, which rows exist; all by default.
      max_iterations: after how many assignments to stop, static.
      tolerance: stop when an iteration lowers the cost by at most this fraction; with 0, when the cost falls no more.
      block_size: rows at a time, static.

    Returns:
      `Clusters(centers, owners, counts, cost, iterations)`.

    Raises:
      TypeError: if the features are not floating point, a count is not a static int, `where` is not bool or the key is
        no key.
      ValueError: if the features are not `[N, D]`, a count is out of range or the metric is unknown.

    References:
      Lloyd, Least squares quantization in PCM, 1982. Arthur & Vassilvitskii, SODA 2007.

    Examples:
      >>> found = k_means_clusters(0, jnp.array([[0.0], [1.0], [8.0], [9.0]]), 2)
      >>> sorted(found.centers.ravel().tolist()), float(found.cost), found.counts.tolist()
      ([0.5, 8.5], 1.0, [2, 2])
    """
    check_choice("metric", metric, METRICS)
    check_count("max_iterations", max_iterations)
    check_number("tolerance", tolerance, 0)
    check_count("block_size", block_size)
    rows, exists = usable_features(features, where, metric=metric)
    size = rows.shape[0]
    check_count("k", k, size, "the number of rows")
    rows = unit_rows(rows) if metric == "cosine" else rows
    first = jnp.ones(size, rows.dtype)
    drawn = spread_draws(as_key(key), bind(_squared_distances_to, rows), first, exists, k)
    origin = center(jnp.where(exists[:, None], rows, jnp.nan))
    block = min(block_size, size)
    blocks = jax.tree.map(lambda x: _in_blocks(x, block), (jnp.where(exists[:, None], rows - origin[None], 0), exists))
    start = jnp.where((drawn < size)[:, None], rows[drawn] - origin[None], jnp.nan)
    infinite = jnp.full((), jnp.inf, rows.dtype)
    state = start, jnp.full(blocks[1].shape, -2, jnp.int32), jnp.ones((), bool), infinite, jnp.zeros((), jnp.int32)
    step, goes_on = bind(_assign_and_move, blocks, tolerance), bind(_is_unsettled, max_iterations=max_iterations)
    centers, owners, _, cost, iterations = while_loop(goes_on, step, state)
    owners = owners.reshape(-1)[:size]
    counts = jnp.zeros(k, jnp.int32).at[jnp.where(owners < 0, k, owners)].add(1, mode="drop")
    return Clusters(centers + origin[None], owners, counts, cost, iterations)


def k_means_indices(
    key: jax.Array | int,
    features: jax.Array,
    k: int,
    *,
    metric: str = "cosine",
    where: jax.Array | None = None,
    max_iterations: int = 50,
) -> jax.Array:
    """Choose the row nearest to the center of each of k clusters; a row taken by one center is not taken by another.

    Ties up to rounding, as between the rows of a cluster of two, go to the lowest index.

    Args:
      key: int seed or key.
      features: `[N, D]`, floating point; a row that is not finite, or whose squared norm overflows (except for
        "cosine"), is never chosen.
      k: how many to choose, 1 <= k <= N, static.
      metric: "cosine" for the Euclidean distance between rows scaled to unit length, or "euclidean".
      where: `[N]` bool, which rows may be chosen and make the clusters; all by default.
      max_iterations: after how many assignments to stop, static.

    Returns:
      `[k]` int32, distinct; N, one past the end, where no row was left.

    Raises:
      TypeError: if the features are not floating point, a count is not a static int, `where` is not bool or the key is
        no key.
      ValueError: if the features are not `[N, D]`, a count is out of range or the metric is unknown.

    References:
      Yuan, Lin & Boyd-Graber, EMNLP 2020 (arXiv 2010.09535).

    Examples:
      >>> rows = jnp.array([[0.0], [1.0], [2.0], [8.0], [9.0], [10.0]])
      >>> sorted(k_means_indices(0, rows, 2, metric="euclidean").tolist())
      [1, 4]
    """
    found = k_means_clusters(key, features, k, metric=metric, where=where, max_iterations=max_iterations)
    rows, exists = usable_features(features, where, metric=metric)
    rows = unit_rows(rows) if metric == "cosine" else rows
    state = jnp.full(k, rows.shape[0], jnp.int32), exists
    return fori_loop(0, k, bind(_take_nearest, rows, found.centers), state)[0]


def keep_by_k_means(
    k: int, key: jax.Array | int, *, metric: str = "cosine", max_iterations: int = 50
) -> optax.GradientTransformationExtraArgs:
    """Keep the example nearest to the center of each of k clusters, weights unchanged. Signal: `features` [N, D].

    Over the weights `[N]` of a pool, with 0 for what has a label, these are the next examples to label. If fewer than k
    examples have a weight, all of them are kept. Examples with a feature that is not finite, or with a squared norm
    that overflows (except for "cosine"), are never kept.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      key: typed PRNG key or int seed.
      metric: "cosine" for the Euclidean distance between rows scaled to unit length, or "euclidean".
      max_iterations: after how many assignments to stop, static.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, the features are not floating point.
      ValueError: if the metric is unknown, a count is below 1 or, in `update`, k > N or the features are not `[N, D]`.

    References:
      Yuan, Lin & Boyd-Graber, EMNLP 2020 (arXiv 2010.09535).

    Examples:
      >>> tx = keep_by_k_means(2, key=0, metric="euclidean")
      >>> features = jnp.array([[0.0], [1.0], [2.0], [8.0], [9.0], [10.0]])
      >>> tx.update(jnp.ones(6), tx.init(jnp.ones(6)), features=features)[0].tolist()
      [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    """
    check_count("k", k)
    check_count("max_iterations", max_iterations)
    check_choice("metric", metric, METRICS)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, features, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        next_key, draw_key = jax.random.split(state.rng_key)
        options = {"metric": metric, "where": weights != 0, "max_iterations": max_iterations}
        chosen = k_means_indices(draw_key, features, k, **options)
        return keep_rows(weights, chosen), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _squared_distances_to(rows: jax.Array, j: jax.Array) -> jax.Array:
    return jnp.sum((rows - rows[j][None]) ** 2, axis=1)


def _in_blocks(x: jax.Array, block: int) -> jax.Array:
    """Return the rows in blocks, padded with zeros."""
    padding = ((0, -x.shape[0] % block), *((0, 0),) * (x.ndim - 1))
    return jnp.pad(x, padding).reshape(-1, block, *x.shape[1:])


def _is_unsettled(state, *, max_iterations):
    _, _, changes, _, iterations = state
    return (iterations < max_iterations) & changes


def _assign_and_move(blocks, tolerance, state):
    centers, owners, _, before, iterations = state
    usable = jnp.all(jnp.isfinite(centers), axis=1)
    known = jnp.where(usable[:, None], centers, 0)
    totals = jnp.zeros_like(centers), jnp.zeros(centers.shape[0], jnp.int32), jnp.zeros((), centers.dtype)
    (sums, counts, cost), found = scan(bind(_assign_block, known, usable), totals, blocks)
    changes = jnp.any(found != owners) & (cost < before * (1 - tolerance))
    moved = jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1).astype(sums.dtype)[:, None], centers)
    return jnp.where(changes, moved, centers), found, changes, cost, iterations + 1


def _assign_block(centers, usable, totals, block):
    sums, counts, cost = totals
    rows, exists = block
    halves = jnp.sum(centers**2, axis=1)[None] / 2 - product(rows, centers.T)
    half, owner = first_minima(jnp.where(usable[None], halves, jnp.inf), axis=1)
    owned = (owner[:, None] == jnp.arange(centers.shape[0], dtype=jnp.int32)[None]) & exists[:, None]
    squared = jnp.maximum(jnp.sum(rows**2, axis=1) + 2 * half, 0)
    sums += product(owned.astype(rows.dtype).T, rows)
    totals = sums, counts + jnp.sum(owned, axis=0, dtype=jnp.int32), cost + jnp.sum(jnp.where(exists, squared, 0))
    return totals, jnp.where(exists, owner, -1)


def _take_nearest(rows, centers, t, state):
    indices, free = state
    squared = jnp.sum((rows - centers[t][None]) ** 2, axis=1)
    squared = jnp.where(free & jnp.isfinite(squared), squared, jnp.inf)
    least = vector_min(squared)
    valid = least < jnp.inf
    length = jnp.sqrt(jnp.sum(jnp.where(valid, centers[t], 0) ** 2))
    rounding = 32 * jnp.finfo(rows.dtype).eps * (least + jnp.sqrt(least) * length)  # both rows of a pair are nearest
    j = jnp.argmax(free & (squared <= least + rounding)).astype(jnp.int32)
    return indices.at[t].set(jnp.where(valid, j, rows.shape[0])), free.at[j].set(free[j] & ~valid)
