"""Which unlabeled examples to label next: the most typical one of each cluster without a label (TypiClust).

An example is typical if its neighbors are near. With few labels, typical examples of many clusters beat unsure ones, of
which a model that knows nothing has no idea.

References:
  Hacohen, Dekel & Weinshall, Active learning on a budget: opposite strategies suit high and low budgets, ICML 2022
  (arXiv 2202.02794).

Method: TypiClust
Paper: 2202.02794
Experiment: active_texts, speed strategies
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_integer, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import class_numbers, first_min
from minibatch_jax.geometry import center, root, squared_distances, unit_rows
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.selection._labeled_rows import labeled_or_none, pool_and_references
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.selection.assigned_rows import METRICS
from minibatch_jax.selection.k_means import k_means_clusters
from minibatch_jax.weights import KeyState, weight_transformation

_BLOCK = 256  # rows at a time


def typi_clust_indices(
    key: jax.Array | int,
    features: jax.Array,
    k: int,
    num_clusters: int,
    *,
    metric: str = "cosine",
    where: jax.Array | None = None,
    labeled: jax.Array | None = None,
    num_neighbors: int = 20,
    smallest: int = 6,
) -> jax.Array:
    """Cluster all rows by k-means, and choose the most typical row of each cluster in turn.

    The paper takes `min(number of labels + k, 500)` clusters, one for each label that there will be.
    `typical_indices` says which cluster has its turn.

    Args:
      key: int seed or key.
      features: `[N, D]`, floating point; a row that is not finite, or whose squared norm overflows (except for
        "cosine"), is never chosen.
      k: how many to choose, 1 <= k <= N, static.
      num_clusters: how many clusters, at most N, static.
      metric: "cosine" for the Euclidean distance between rows scaled to unit length, or "euclidean".
      where: `[N]` bool, which rows exist; all by default.
      labeled: `[N]` bool, rows that have a label: they belong to clusters and are not chosen; none by default.
      num_neighbors: how many neighbors make a row typical, static.
      smallest: size of the smallest cluster that has a turn, static.

    Returns:
      `[k]` int32, distinct; N, one past the end, where no row was left.

    Raises:
      TypeError: if the features are not floating point, a count is not a static int, a mask is not bool or the key is
        no key.
      ValueError: if shapes do not match, a count is out of range or the metric is unknown.

    References:
      Hacohen, Dekel & Weinshall, ICML 2022 (arXiv 2202.02794).

    Examples:
      >>> rows = jnp.array([[0.0], [1.0], [2.0], [5.0], [20.0], [21.0], [22.0], [25.0]])
      >>> sorted(typi_clust_indices(0, rows, 2, 2, metric="euclidean", smallest=3).tolist())
      [1, 5]
    """
    owners = k_means_clusters(key, features, num_clusters, metric=metric, where=where).owners
    return typical_indices(
        features,
        owners,
        k,
        num_clusters,
        metric=metric,
        where=where,
        labeled=labeled,
        num_neighbors=num_neighbors,
        smallest=smallest,
    )


def typical_indices(
    features: jax.Array,
    clusters: jax.Array,
    k: int,
    num_clusters: int,
    *,
    metric: str = "cosine",
    where: jax.Array | None = None,
    labeled: jax.Array | None = None,
    num_neighbors: int = 20,
    smallest: int = 6,
) -> jax.Array:
    """Choose the most typical row of each cluster in turn.

    Clusters have their turn in the order of the number of their labeled rows, fewest first, then of their size, largest
    first, and again from the start after the last one. A cluster that is too small has no turn, unless all are. The
    typical row is the one with the least mean distance to its `num_neighbors` nearest rows among those of the cluster
    that have no label and are not chosen, or to half of these if they are fewer. Ties go to the lowest index. A cluster
    without a row left gives its turn to the free rows of all clusters.

    Args:
      features: `[N, D]`, floating point; rows that cannot be measured are absent.
      clusters: `[N]` int, the cluster of each row; a row of another number than 0, ..., num_clusters - 1 is absent.
      k: how many to choose, 1 <= k <= N, static.
      num_clusters: how many clusters, static.
      metric: "cosine" for the Euclidean distance between rows scaled to unit length, or "euclidean".
      where: `[N]` bool, which rows exist; all by default.
      labeled: `[N]` bool, rows that have a label: they count for their cluster and are not chosen; none by default.
      num_neighbors: how many neighbors make a row typical, static.
      smallest: size of the smallest cluster that has a turn, static.

    Returns:
      `[k]` int32, distinct; N, one past the end, where no row was left.

    Raises:
      TypeError: if the features are not floating point, the clusters not integers, a count is not a static int or a
        mask is not bool.
      ValueError: if shapes do not match, a count is out of range or the metric is unknown.

    References:
      Hacohen, Dekel & Weinshall, ICML 2022 (arXiv 2202.02794).

    Examples:
      >>> rows = jnp.array([[0.0], [1.0], [2.0], [20.0], [21.0], [22.0], [23.0]])
      >>> clusters = jnp.array([0, 0, 0, 1, 1, 1, 1])
      >>> typical_indices(rows, clusters, 3, 2, metric="euclidean", smallest=3).tolist()
      [4, 0, 5]
    """
    check_choice("metric", metric, METRICS)
    rows, exists = usable_features(features, where, metric=metric)
    size = rows.shape[0]
    check_count("k", k, size, "the number of rows")
    check_count("num_clusters", num_clusters)
    check_count("num_neighbors", num_neighbors)
    check_count("smallest", smallest)
    check_shape("clusters", clusters, (size,))
    check_integer("clusters", clusters)
    rows = unit_rows(rows) if metric == "cosine" else rows
    rows = jnp.where(exists[:, None], rows - center(jnp.where(exists[:, None], rows, jnp.nan))[None], 0)
    clusters = jnp.where(exists, class_numbers(clusters, num_clusters), num_clusters)
    exists = clusters < num_clusters
    before = labeled_or_none("labeled", labeled, exists)
    counts, known = (
        jnp.zeros(num_clusters + 1, jnp.int32).at[clusters].add(x.astype(jnp.int32)) for x in (exists, before)
    )
    counts, known = counts[:num_clusters], known[:num_clusters]
    large = counts >= jnp.where(jnp.any(counts >= smallest), smallest, 1)
    turns = jnp.lexsort((-counts, known, ~large)).astype(jnp.int32)
    state = jnp.full(k, size, jnp.int32), exists & ~before
    step = bind(_take_typical, rows, clusters, turns, jnp.sum(large, dtype=jnp.int32), num_neighbors=num_neighbors)
    return fori_loop(0, k, step, state)[0]


def keep_by_typi_clust(
    k: int,
    num_clusters: int,
    key: jax.Array | int,
    *,
    metric: str = "cosine",
    num_neighbors: int = 20,
    smallest: int = 6,
) -> optax.GradientTransformationExtraArgs:
    """Keep the most typical example of each of k clusters with few labels, weights unchanged (TypiClust).

    Signals: `features`, `reference_features` and `reference_labels`. Over the weights `[N]` of a pool, with 0 for what
    has a label, these are the next examples to label. The references are the labeled examples, and one whose label is
    negative is padding. If fewer than k examples have a weight, all of them are kept. Examples with a feature that is
    not finite, or with a squared norm that overflows (except for "cosine"), are never kept.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      num_clusters: how many clusters, static; the paper takes the number of labels plus k, but at most 500.
      key: typed PRNG key or int seed.
      metric: "cosine" for the Euclidean distance between rows scaled to unit length, or "euclidean".
      num_neighbors: how many neighbors make an example typical, static.
      smallest: size of the smallest cluster that has a turn, static.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, the features are not floating point.
      ValueError: if a count is out of range, the metric is unknown or, in `update`, the shapes of the signals do not
        match.

    References:
      Hacohen, Dekel & Weinshall, ICML 2022 (arXiv 2202.02794).

    Examples:
      >>> tx = keep_by_typi_clust(1, 2, key=0, metric="euclidean", smallest=3)
      >>> features = jnp.array([[0.0], [1.0], [2.0], [5.0], [21.0], [22.0]])
      >>> labeled = {"reference_features": jnp.array([[21.5]]), "reference_labels": jnp.array([0])}
      >>> tx.update(jnp.ones(6), tx.init(jnp.ones(6)), features=features, **labeled)[0].tolist()
      [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    counts = {"k": k, "num_clusters": num_clusters, "num_neighbors": num_neighbors, "smallest": smallest}
    for name, count in counts.items():
        check_count(name, count)
    check_choice("metric", metric, METRICS)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, features, reference_features, reference_labels, **extra_args):
        check_count("k", k, weights.shape[0], "the number of examples")
        next_key, draw_key = jax.random.split(state.rng_key)
        rows, exists, labeled = pool_and_references(weights, features, reference_features, reference_labels)
        options = {"metric": metric, "where": exists, "num_neighbors": num_neighbors, "smallest": smallest}
        indices = typi_clust_indices(draw_key, rows, k, num_clusters, labeled=labeled, **options)
        return keep_rows(weights, indices), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _take_typical(rows, clusters, turns, number_of_turns, t, state, *, num_neighbors):
    indices, free = state
    cluster = turns[t % jnp.maximum(number_of_turns, 1)]
    mine = free & (clusters == cluster)
    members = jnp.where(jnp.any(mine), mine, free)
    count = jnp.sum(members, dtype=jnp.int32)
    order = jnp.argsort(~members, stable=True).astype(jnp.int32)
    block, blocks = min(_BLOCK, rows.shape[0]), (count + _BLOCK - 1) // _BLOCK
    look = bind(_distances_of_block, rows, order, count, blocks, num_neighbors=num_neighbors, size=block)
    means = fori_loop(0, blocks, look, jnp.full(rows.shape[0], jnp.inf, rows.dtype))
    place = first_min(jnp.where(jnp.arange(rows.shape[0], dtype=jnp.int32) < count, means, jnp.inf))[1]
    valid = count > 0
    j = order[jnp.minimum(place, jnp.maximum(count - 1, 0))].astype(jnp.int32)
    return indices.at[t].set(jnp.where(valid, j, rows.shape[0])), free.at[j].set(free[j] & ~valid)


def _distances_of_block(rows, order, count, blocks, block, means, *, num_neighbors, size):
    """Set the mean distances of a block of members, by their place in the order, to their neighbors in it."""
    slots = block * size + jnp.arange(size, dtype=jnp.int32)
    queries = rows[order[jnp.minimum(slots, order.shape[0] - 1)]]
    nearest = jnp.full((size, num_neighbors), jnp.inf, rows.dtype)
    meet = bind(_meet_block, rows, order, count, queries, slots, size=size)
    nearest = jnp.sort(fori_loop(0, blocks, meet, nearest), axis=1)
    wanted = jnp.clip(count // 2, 1, num_neighbors)
    used = (jnp.arange(num_neighbors, dtype=jnp.int32)[None] < wanted) & jnp.isfinite(nearest)
    number = jnp.maximum(jnp.sum(used, axis=1, dtype=jnp.int32), 1).astype(rows.dtype)
    mean = jnp.sum(jnp.where(used, root(jnp.where(used, nearest, 0)), 0), axis=1) / number
    return means.at[jnp.where(slots < count, slots, means.shape[0])].set(mean, mode="drop")


def _meet_block(rows, order, count, queries, query_slots, block, nearest, *, size):
    """Return the least squared distances `[b, num_neighbors]` of the queries so far, with one more block of members."""
    slots = block * size + jnp.arange(size, dtype=jnp.int32)
    others = rows[order[jnp.minimum(slots, order.shape[0] - 1)]]
    squared = squared_distances(queries, others, origin=jnp.zeros(rows.shape[1], rows.dtype))
    counts = (slots < count)[None] & (slots[None] != query_slots[:, None])
    found = jnp.concatenate([nearest, jnp.where(counts, squared, jnp.inf)], axis=1)
    return -jax.lax.top_k(-found, nearest.shape[1])[0]
