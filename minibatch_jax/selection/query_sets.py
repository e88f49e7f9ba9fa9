"""Which rows of a pool are nearest to several sets of queries, which take turns so that each gets its share.

The rows nearest to all queries together may all belong to one set, whose queries lie where the pool is dense. If each
set takes its nearest row in turn, every set gets as many rows as any other.

Method: nearest rows of several query sets in turn
Experiment: nearest_sources
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_floating, check_integer, check_shape
from minibatch_jax._loops import bind, scan, while_loop
from minibatch_jax.geometry import center, finite_rows, measurable_rows, squared_distances, unit_rows
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.weights import weight_transformation

METRICS = ("euclidean", "cosine")
NO_LIMIT = jnp.iinfo(jnp.int32).max


class Turns(NamedTuple):
    """Rows that query sets took in turn, in order.

    Attributes:
      indices: `[k]` int32, distinct; N, one past the end, where no set could take a row.
      sets: `[k]` int32, the set that took each row; -1 where none did.
      distances: `[k]`, Euclidean distance to the nearest query of this set, up to rounding; infinite where none did.
    """

    indices: jax.Array
    sets: jax.Array
    distances: jax.Array


class TurnsState(NamedTuple):
    """State of `keep_nearest_in_turn`, constant.

    Attributes:
      queries: `[S, Q, D]`, as given.
      quotas: `[S]` int32, as given; the largest int32 where there is no limit.
    """

    queries: jax.Array
    quotas: jax.Array


class _Taking(NamedTuple):
    """The loop: whether each row and the place past the end is taken, which set is next, rows and sets so far."""

    taken: jax.Array
    left: jax.Array
    last: jax.Array
    count: jax.Array
    turns: Turns


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
    set: `queries[:, None]`. Ties go to the lowest index. O(N S Q D) time, O(block_size S Q + S k) memory.

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
      >>> rows = jnp.array([[0.0], [0.1], [0.2], [5.0], [9.0]])
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
    lists, _ = scan(bind(_next_block, asked.astype(rows.dtype), counted), start, (blocks, present, first))
    return take_turns(*lists, limits, k, size)


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
        kept = jnp.zeros(weights.shape, bool).at[found.indices].set(True, mode="drop")
        return jnp.where(kept, weights, 0), state

    return weight_transformation(lambda weights: TurnsState(queries, limits), update)


def usable_queries(queries: jax.Array, metric: str) -> tuple[jax.Array, jax.Array]:
    """Return the queries as the metric compares them, 0 for those that do not count, and which count.

    Args:
      queries: `[S, Q, D]`, floating point.
      metric: "euclidean" or "cosine".

    Returns:
      `[S, Q, D]`, float32 (float64 if the queries are), and `[S, Q]` bool.

    Examples:
      >>> usable_queries(jnp.array([[[3.0, 4.0], [jnp.nan, 0.0]]]), "cosine")[1].tolist()
      [[True, False]]
    """
    flat = queries.reshape(-1, queries.shape[2])
    rows, usable = finite_rows(flat) if metric == "cosine" else measurable_rows(flat)
    rows = unit_rows(rows) if metric == "cosine" else rows
    return rows.reshape(queries.shape), usable.reshape(queries.shape[:2])


def empty_lists(num_sets: int, k: int, size: int, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Return lists of the nearest rows of each set before any row was seen.

    Args:
      num_sets: S.
      k: length of a list.
      size: N, the index of no row.
      dtype: of the squared distances.

    Returns:
      Squared distances `[S, k]`, infinite, and indices `[S, k]` int32, all N.

    Examples:
      >>> empty_lists(1, 2, 9, jnp.float32)[1].tolist()
      [[9, 9]]
    """
    return jnp.full((num_sets, k), jnp.inf, dtype), jnp.full((num_sets, k), size, jnp.int32)


def extend_lists(
    lists: tuple[jax.Array, jax.Array],
    queries: jax.Array,
    counted: jax.Array,
    rows: jax.Array,
    exists: jax.Array,
    indices: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Put the rows of a block that are nearer than those listed into the lists, each row in the lists of all sets.

    Args:
      lists: squared distances and indices `[S, k]`, ascending by distance.
      queries: `[S, Q, D]`, as `usable_queries` returns them.
      counted: `[S, Q]` bool.
      rows: `[b, D]`, finite.
      exists: `[b]` bool.
      indices: `[b]` int32, ascending and above those listed.

    Returns:
      The lists.

    Examples:
      >>> lists, query = empty_lists(1, 2, 9, jnp.float32), (jnp.zeros((1, 1, 1)), jnp.ones((1, 1), bool))
      >>> block = jnp.array([[3.0], [1.0], [2.0]]), jnp.ones(3, bool), jnp.arange(3)
      >>> extend_lists(lists, *query, *block)[1].tolist()
      [[1, 2]]
    """
    squares, listed = lists
    sets, per_set, width = queries.shape
    flat = queries.reshape(-1, width)
    found = squared_distances(flat, rows, origin=center(flat, rows))
    found = jnp.where(counted.reshape(-1)[:, None] & exists[None], found, jnp.inf)
    nearest = jnp.min(found.reshape(sets, per_set, -1), axis=1)
    low, places = jax.lax.top_k(-nearest, min(squares.shape[1], rows.shape[0]))
    squares = jnp.concatenate([squares, -low], axis=1)
    listed = jnp.concatenate([listed, indices[places]], axis=1)
    low, places = jax.lax.top_k(-squares, lists[0].shape[1])
    return -low, jnp.take_along_axis(listed, places, axis=1)


def take_turns(squares: jax.Array, listed: jax.Array, quotas: jax.Array, k: int, size: int) -> Turns:
    """Let sets take rows in turn from their lists of the k nearest, which suffice.

    Args:
      squares: `[S, k]`, squared distances, ascending, infinite where a list ends.
      listed: `[S, k]` int32, rows of the lists.
      quotas: `[S]` int32, the most rows of each set.
      k: how many rows, static.
      size: N, the index of no row, static.

    Returns:
      `Turns(indices, sets, distances)`.

    Examples:
      >>> lists = jnp.array([[0.0, 4.0], [1.0, 9.0]]), jnp.array([[7, 3], [7, 5]])
      >>> take_turns(*lists, jnp.array([2, 2]), 2, 9).indices.tolist()
      [7, 5]
    """
    sets = squares.shape[0]
    taken = jnp.zeros(size + 1, bool)
    turns = Turns(jnp.full(k, size, jnp.int32), jnp.full(k, -1, jnp.int32), jnp.full(k, jnp.inf, squares.dtype))
    zero = jnp.zeros((), jnp.int32)
    start = _Taking(taken, quotas, zero + sets - 1, zero, turns)
    return while_loop(bind(_goes_on, k=k), bind(_take, squares, listed), start).turns


def _limits(quotas: jax.Array | None, sets: int) -> jax.Array:
    if quotas is None:
        return jnp.full(sets, NO_LIMIT, jnp.int32)
    check_shape("quotas", quotas, (sets,))
    check_integer("quotas", quotas)
    return jnp.asarray(quotas, jnp.int32)


def _next_block(queries, counted, lists, block):
    rows, exists, first = block
    indices = first + jnp.arange(rows.shape[0], dtype=jnp.int32)
    return extend_lists(lists, queries, counted, rows, exists, indices), None


def _goes_on(s, *, k):
    return (s.count < k) & jnp.any(s.left > 0)


def _take(squares, listed, s):
    """Let the next set that goes on take its nearest free row, or pass forever."""
    sets = s.left.shape[0]
    wait = jnp.mod(jnp.arange(sets, dtype=jnp.int32) - s.last - 1, sets)
    now = jnp.argmin(jnp.where(s.left > 0, wait, sets)).astype(jnp.int32)
    free = ~s.taken[listed[now]] & (squares[now] < jnp.inf)
    place = jnp.argmax(free)
    found, row = free[place], listed[now, place]
    spot = jnp.where(found, s.count, s.turns.indices.shape[0])
    turns = Turns(
        s.turns.indices.at[spot].set(row, mode="drop"),
        s.turns.sets.at[spot].set(now, mode="drop"),
        s.turns.distances.at[spot].set(jnp.sqrt(squares[now, place]), mode="drop"),
    )
    left = s.left.at[now].set(jnp.where(found, s.left[now] - 1, 0))
    taken = s.taken.at[row].max(found)
    return _Taking(taken, left, now, s.count + found.astype(jnp.int32), turns)
