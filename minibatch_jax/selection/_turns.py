"""The lists of the rows nearest to each query set, and the turns in which sets take rows from them.

A set never needs more than its k nearest rows, because at most k - 1 rows are taken before its last turn.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._loops import bind, while_loop
from minibatch_jax.geometry import center, finite_rows, measurable_rows, squared_distances, unit_rows

Lists = tuple[jax.Array, jax.Array]


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


class _Taking(NamedTuple):
    """The loop: which rows are taken, what is left of the quotas, whose turn it was, how many rows, and the rows."""

    taken: jax.Array
    left: jax.Array
    last: jax.Array
    done: jax.Array
    turns: Turns


def usable_queries(queries: jax.Array, metric: str) -> tuple[jax.Array, jax.Array]:
    """Return the queries as the metric compares them, 0 for those that do not count, and which count.

    Args:
      queries: `[S, Q, D]`, floating point.
      metric: "euclidean" or "cosine".

    Returns:
      `[S, Q, D]`, float32 (float64 if the queries are), and `[S, Q]` bool.
    """
    flat = queries.reshape(-1, queries.shape[2])
    rows, usable = finite_rows(flat) if metric == "cosine" else measurable_rows(flat)
    rows = unit_rows(rows) if metric == "cosine" else rows
    return rows.reshape(queries.shape), usable.reshape(queries.shape[:2])


def empty_lists(num_sets: int, k: int, size: int, dtype: jnp.dtype) -> Lists:
    """Return lists of the nearest rows of each set before any row was seen.

    Args:
      num_sets: S.
      k: length of a list.
      size: N, the index of no row.
      dtype: of the squared distances.

    Returns:
      Squared distances `[S, k]`, infinite, and indices `[S, k]` int32, all N.
    """
    return jnp.full((num_sets, k), jnp.inf, dtype), jnp.full((num_sets, k), size, jnp.int32)


def extend_lists(
    lists: Lists,
    queries: jax.Array,
    counted: jax.Array,
    rows: jax.Array,
    exists: jax.Array,
    indices: jax.Array,
) -> Lists:
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
    """
    squares, listed = lists
    sets, per_set, width = queries.shape
    flat = queries.reshape(-1, width)
    found = squared_distances(flat, rows, origin=center(flat))  # the same for all blocks: copies tie
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
    """
    sets = squares.shape[0]
    taken = jnp.zeros(size + 1, bool)
    turns = Turns(jnp.full(k, size, jnp.int32), jnp.full(k, -1, jnp.int32), jnp.full(k, jnp.inf, squares.dtype))
    zero = jnp.zeros((), jnp.int32)
    start = _Taking(taken, quotas, zero + sets - 1, zero, turns)
    return while_loop(bind(_goes_on, k=k), bind(_take, squares, listed), start).turns


def _goes_on(s, *, k):
    return (s.done < k) & jnp.any(s.left > 0)


def _take(squares, listed, s):
    """Let the next set that goes on take its nearest free row, or pass forever."""
    sets = s.left.shape[0]
    wait = jnp.mod(jnp.arange(sets, dtype=jnp.int32) - s.last - 1, sets)
    now = jnp.argmin(jnp.where(s.left > 0, wait, sets)).astype(jnp.int32)
    free = ~s.taken[listed[now]] & (squares[now] < jnp.inf)
    place = jnp.argmax(free)
    found, row = free[place], listed[now, place]
    spot = jnp.where(found, s.done, s.turns.indices.shape[0])
    turns = Turns(
        s.turns.indices.at[spot].set(row, mode="drop"),
        s.turns.sets.at[spot].set(now, mode="drop"),
        s.turns.distances.at[spot].set(jnp.sqrt(squares[now, place]), mode="drop"),
    )
    left = s.left.at[now].set(jnp.where(found, s.left[now] - 1, 0))
    taken = s.taken.at[row].max(found)
    return _Taking(taken, left, now, s.done + found.astype(jnp.int32), turns)
