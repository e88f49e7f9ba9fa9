"""Which rows of a pool are nearest to several sets of queries, which take turns so that each gets its share.

The rows nearest to all queries together may all belong to one set, whose queries lie where the pool is dense. If each
set takes its nearest row in turn, every set gets as many rows as any other.

References:
  Ivison et al., Large-scale data selection for instruction tuning, 2025 (arXiv 2503.01807): each query is a set.

Method: nearest rows of several query sets in turn
Paper: 2503.01807
Experiment: nearest_sources
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_floating, check_integer, check_shape
from minibatch_jax._loops import bind, scan
from minibatch_jax._vector import as_counts
from minibatch_jax.geometry import unit_rows
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.selection._turns import Turns as Turns
from minibatch_jax.selection._turns import empty_lists, extend_lists, take_turns, usable_queries
from minibatch_jax.weights import weight_transformation

METRICS = ("euclidean", "cosine")
NO_LIMIT = jnp.iinfo(jnp.int32).max


class TurnsState(NamedTuple):
    """State of `keep_nearest_in_turn`, constant.

    Attributes:
      queries: `[S, Q, D]`, as given.
      quotas: `[S]` int32, as given; the largest int32 where there is no limit.
    """

    queries: jax.Array
    quotas: jax.Array


def nearest_in_turn(
    features: jax.Array,
    queries: jax.Array,
    k: int,
    *,
    quotas: jax.Array | None = None,
    metric: str = "euclidean",
    where: jax.Array | None = None,
    block_size: int = 4096,
) -> Turns:
    """Let S sets of queries take the row nearest to them in turn, until k rows are taken.

    In its turn a set takes the row nearest to any of its queries, among the rows that no set has taken. Set 0 begins. A
    set that has its quota, or finds no row, passes from then on. For every query to have a turn of its own, make it a
    set: `queries[:, None]`. Ties go to the lowest index. O(N S Q D + k (k + S)) time,
    O(block_size S Q + S k) memory.

    Args:
      features: `[N, D]`, floating point. A row that is not finite is never taken.
      queries: `[S, Q, D]`, floating point. A query that is not finite does not count: fill up smaller sets with NaN. A
        set without a query takes nothing.
      k: how many rows, 1 <= k <= N, static.
      quotas: `[S]`, integers, the most rows that each set takes; no limits by default.
      metric: "euclidean", or "cosine" for the Euclidean distance between rows scaled to unit length.
      where: `[N]` bool, which rows exist; all by default.
      block_size: rows at a time, static.

    Returns:
      `Turns(indices, sets, distances)`. `jnp.zeros(N, bool).at[indices].set(True, mode="drop")` is the mask.

    Raises:
      TypeError: if features or queries are not floating point, quotas not integers, `where` not bool or a count is not
        a static int.
      ValueError: if shapes do not match, a count is out of range or the metric is unknown.

    Examples:
      >>> rows = jnp.array([[0.0], [0.1], [0.3], [5.0], [9.0]])
      >>> found = nearest_in_turn(rows, jnp.array([[[0.1]], [[7.5]]]), 4)
      >>> found.indices.tolist(), found.sets.tolist()
      ([1, 4, 0, 3], [0, 1, 0, 1])
    """
    check_choice("metric", metric, METRICS)
    rows, exists = usable_features(features, where, metric=metric)
    size, width = rows.shape
    check_shape("queries", queries, (None, None, width))
    check_floating("queries", queries)
    check_count("k", k, size, "the number of rows")
    check_count("block_size", block_size)
    limits = _limits(quotas, queries.shape[0])
    asked, counted = usable_queries(queries, metric)
    rows = unit_rows(rows) if metric == "cosine" else rows
    block = min(block_size, size)
    missing = -size % block
    blocks = jnp.pad(rows, ((0, missing), (0, 0))).reshape(-1, block, width)
    present = jnp.pad(exists, (0, missing)).reshape(-1, block)
    first = jnp.arange(blocks.shape[0], dtype=jnp.int32) * block
    start = empty_lists(queries.shape[0], k, size, rows.dtype)
    (squares, listed), _ = scan(bind(_next_block, asked.astype(rows.dtype), counted), start, (blocks, present, first))
    return take_turns(squares, listed, limits, k, size)


def keep_nearest_in_turn(
    k: int, queries: jax.Array, *, quotas: jax.Array | None = None, metric: str = "euclidean"
) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples that sets of queries take in turn, weights unchanged. Signal: `features` [B, D].

    In its turn a set takes the example nearest to any of its queries, among those that no set has taken. If all sets
    have their quotas, or fewer than k examples have a weight and finite features, fewer than k are kept.

    Args:
      k: how many to keep, 1 <= k <= B, static.
      queries: `[S, Q, D]`, floating point. A query that is not finite does not count: fill up smaller sets with NaN.
      quotas: `[S]`, integers, the most examples that each set takes; no limits by default.
      metric: "euclidean", or "cosine" for the Euclidean distance between rows scaled to unit length.

    Returns:
      A transformation over `[B]` weights with a `TurnsState`.

    Raises:
      TypeError: if k is not a static int, the queries are not floating point or the quotas not integers; in `update`,
        if the features are not floating point.
      ValueError: if k < 1, the metric is unknown or shapes do not match; in `update`, if k > B or the features are not
        `[B, D]`.

    Examples:
      >>> tx = keep_nearest_in_turn(2, jnp.array([[[0.0]], [[9.0]]]))
      >>> features = jnp.array([[0.0], [1.0], [2.0], [7.0], [3.0]])
      >>> tx.update(jnp.ones(5), tx.init(jnp.ones(5)), features=features)[0].tolist()
      [1.0, 0.0, 0.0, 1.0, 0.0]
    """
    check_count("k", k)
    check_choice("metric", metric, METRICS)
    check_shape("queries", queries, (None, None, None))
    check_floating("queries", queries)
    limits = _limits(quotas, queries.shape[0])

    def update(weights, state, params=None, *, features, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        found = nearest_in_turn(features, state.queries, k, quotas=state.quotas, metric=metric, where=weights != 0)
        return keep_rows(weights, found.indices), state

    return weight_transformation(lambda weights: TurnsState(queries, limits), update)


def _limits(quotas: jax.Array | None, sets: int) -> jax.Array:
    if quotas is None:
        return jnp.full(sets, NO_LIMIT, jnp.int32)
    check_shape("quotas", quotas, (sets,))
    check_integer("quotas", quotas)
    return as_counts(quotas)


def _next_block(queries, counted, lists, block):
    rows, exists, first = block
    indices = first + jnp.arange(rows.shape[0], dtype=jnp.int32)
    return extend_lists(lists, queries, counted, rows, exists, indices), None
