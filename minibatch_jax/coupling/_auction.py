"""A start for the exact assignment in few dense rounds, which suits a GPU or TPU: an auction with shrinking bids.

In a round every free row bids for its best column, as much as this column is better than the second best and epsilon
more; each column takes the highest bid and throws out the row it had. A phase ends when all rows have a column; then
epsilon shrinks, all columns are free again and the prices stay. What is not exactly cheapest at the end is given back
for the shortest paths of `_exact` to finish.

References:
  Bertsekas, Auction algorithms for network flow problems: a tutorial introduction, 1992.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

_SHRINK = 5
_ROUNDS_PER_ROW = 200


class _Auction(NamedTuple):
    """The loop: all it needs travels in its carry, so that eager calls compile only once."""

    reduced: jax.Array
    finest: jax.Array
    epsilon: jax.Array
    columns: jax.Array
    rows: jax.Array
    v: jax.Array
    rounds: jax.Array


def auction(reduced: jax.Array, finest: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A pairing of some rows and potentials that prove it the cheapest of these rows.

    Args:
      reduced: `[N, N]`, finite costs, at least 0.
      finest: `[]`, last epsilon; what is left to shortest paths grows with it.

    Returns:
      column of each row and row of each column, `[N]` int32, -1 for none, and column potentials `[N]`.
    """
    n = reduced.shape[0]
    zero = 0 * reduced[0, 0]
    none = jnp.full(n, -1, jnp.int32) + zero.astype(jnp.int32)
    highest = jnp.max(reduced)
    finest = jnp.where(highest > 0, jnp.maximum(finest, 16 * jnp.finfo(reduced.dtype).eps * highest), 1)
    start = jnp.maximum(highest / 2, finest)
    state = _Auction(reduced, finest, start, none, none, jnp.zeros(n, reduced.dtype) + zero, zero.astype(jnp.int32))
    state = lax.while_loop(_is_running, _round, state)
    return _tight(state)


def _is_running(s: _Auction) -> jax.Array:
    coarse = (s.epsilon > s.finest) | jnp.any(s.columns < 0)
    return coarse & (s.rounds < _ROUNDS_PER_ROW * s.columns.shape[0])


def _round(s: _Auction) -> _Auction:
    """Bids of all free rows at once; if there is none, the next phase."""
    n = s.columns.shape[0]
    free = s.columns < 0
    epsilon = jnp.where(jnp.any(free), s.epsilon, jnp.maximum(s.epsilon / _SHRINK, s.finest))
    free = free | ~jnp.any(free)
    columns = jnp.where(free, -1, s.columns)
    rows = jnp.where(jnp.all(free), -1, s.rows)
    slack = s.reduced - s.v[None, :]
    best, wanted = row_minima(slack)
    second = jnp.min(jnp.where(lax.broadcasted_iota(jnp.int32, (n, n), 1) == wanted[:, None], jnp.inf, slack), axis=1)
    bid = jnp.where(free, jnp.where(jnp.isfinite(second), second - best, 0) + epsilon, -1)
    highest = jnp.full(n, -1, bid.dtype).at[wanted].max(bid)
    index = lax.iota(jnp.int32, n)
    wins = free & (bid == highest[wanted])
    winner = jnp.full(n, n, jnp.int32).at[jnp.where(wins, wanted, n)].min(index, mode="drop")
    sold = winner < n
    columns = columns.at[jnp.where(sold & (rows >= 0), rows, n)].set(-1, mode="drop")
    columns = columns.at[jnp.where(sold, winner, n)].set(index, mode="drop")
    rows, v = jnp.where(sold, winner, rows), jnp.where(sold, s.v - highest, s.v)
    return s._replace(epsilon=epsilon, columns=columns, rows=rows, v=v, rounds=s.rounds + 1)


def _tight(s: _Auction) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Only the pairs that are a best one of their row at the final prices; where a row has none, its best column."""
    n = s.columns.shape[0]
    index = lax.iota(jnp.int32, n)
    v = s.v - jnp.max(s.v)
    slack = s.reduced - v[None, :]
    best, wanted = row_minima(slack)
    kept = (s.columns >= 0) & (slack[index, s.columns] == best)
    taken = jnp.zeros(n, bool).at[jnp.where(kept, s.columns, n)].set(True, mode="drop")
    first = jnp.full(n, n, jnp.int32).at[jnp.where(kept, n, wanted)].min(index, mode="drop")
    gained = ~kept & ~taken[wanted] & (first[wanted] == index)
    columns = jnp.where(kept, s.columns, jnp.where(gained, wanted, -1))
    rows = jnp.full(n, -1, jnp.int32).at[jnp.where(columns < 0, n, columns)].set(index, mode="drop")
    return columns, rows, v


def row_minima(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Minimum of each row and its first column."""
    low = jnp.min(x, axis=1)
    column = lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return low, jnp.min(jnp.where(x == low[:, None], column, x.shape[1] - 1), axis=1)
