"""Rows of a pool on disk that several query sets take in turn, in one pass."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_choice, check_count, check_integer, check_shape
from minibatch_jax.pool._report import PoolReport
from minibatch_jax.pool._rounds import gather
from minibatch_jax.pool._rows import open_rows, usable
from minibatch_jax.processes import check_same_arguments
from minibatch_jax.selection import _turns

METRICS = ("euclidean", "cosine")


class PoolTurns(NamedTuple):
    """Rows of a pool that query sets took in turn, in order.

    Attributes:
      indices: `[k]` int64, distinct; N, one past the end, where no set could take a row.
      sets: `[k]` int32, the set that took each row; -1 where none did.
      distances: `[k]` float32, Euclidean distance to the nearest query of this set, up to rounding; infinite where none
        did.
      dropped: number of rows that are not finite in float32, or too large for it.
      report: how many these are, by shard and cause, and the first of them; `print` shows it as text.
      dropped_queries: number of queries that do not count, for the same reasons.
    """

    indices: np.ndarray
    sets: np.ndarray
    distances: np.ndarray
    dropped: int
    report: PoolReport
    dropped_queries: int


def nearest_in_turn(
    pool: Any,
    queries: Sequence[np.ndarray] | np.ndarray,
    k: int,
    *,
    quotas: Sequence[int] | np.ndarray | None = None,
    metric: str = "euclidean",
    block_size: int = 16384,
) -> PoolTurns:
    """Let sets of queries take the row of a pool nearest to them in turn, until k rows are taken; one pass.

    It is `selection.nearest_in_turn` for rows that exceed memory. If several processes run (`jax.distributed`), all
    make the same call on the same file; each reads its own part, and all get the whole result. This function runs on
    the host: do not call it inside `jit`. O(N S Q D + k (k + S)) time, O(block_size S Q + S k) memory.

    Args:
      pool: what `open_pool` opens: a file of `[N, D]` floating point (float16 is fine), shards, a data source, an
        array or memory map.
      queries: S arrays `[Q, D]`, floating point, which may have different Q, or one array `[S, Q, D]`. Queries that are
        not finite in float32 do not count.
      k: how many rows, at most N.
      quotas: `[S]`, the most rows that each set takes; no limits by default.
      metric: "euclidean", or "cosine" for the Euclidean distance between rows scaled to unit length.
      block_size: rows to read at a time.

    Returns:
      `PoolTurns(indices, sets, distances, dropped, report, dropped_queries)`.

    Raises:
      TypeError: if the pool or the queries are not floating point, or a count or the quotas not integers.
      ValueError: if a shape or number does not fit, the metric is unknown, no row of the pool is finite, a set has no
        finite query, the file is damaged or changed while it is read, or processes make other calls.
      OSError: if the pool cannot be read.

    Examples:
      >>> import numpy as np
      >>> pool = np.array([[0.0], [0.1], [0.3], [5.0], [9.0]], np.float32)
      >>> found = nearest_in_turn(pool, [np.array([[0.1]]), np.array([[7.4], [9.0]])], 4)
      >>> found.indices.tolist(), found.sets.tolist()
      ([1, 4, 0, 3], [0, 1, 0, 1])
    """
    check_choice("metric", metric, METRICS)
    check_count("block_size", block_size)
    unit = metric == "cosine"
    rows = open_rows(pool, block_size, unit=unit)
    check_count("k", k, rows.size, "the number of rows")
    asked, counted, dropped_queries = _sets(queries, rows.width, metric)
    limits: Any = np.full(len(asked), rows.size) if quotas is None else np.asarray(quotas)
    check_shape("quotas", limits, (len(asked),))
    check_integer("quotas", limits)
    check_same_arguments(shape=[rows.size, rows.width], k=k, metric=metric, queries=asked, quotas=limits)
    check_same_arguments(pool=rows.ends())
    lists = _turns.empty_lists(len(asked), k, rows.size, jnp.dtype(jnp.float32))
    for number in rows.own:
        lists = _extend(lists, asked, counted, rows.chunk(number), np.int32(number * rows.block_size), unit=unit)
    report = rows.report()
    everyone = gather({"squares": np.asarray(lists[0]), "listed": np.asarray(lists[1])})
    squares, listed = (np.concatenate([part[name] for part in everyone], axis=1) for name in ("squares", "listed"))
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    squares, listed = (np.take_along_axis(x, order, axis=1) for x in (squares, listed))
    found = _take(squares, listed, np.clip(limits.astype(np.int64), 0, k).astype(np.int32), k=k, size=rows.size)
    indices, sets, distances = map(np.asarray, found)
    return PoolTurns(indices.astype(np.int64), sets, distances, report.dropped, report, dropped_queries)


def _sets(queries: Any, width: int, metric: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the queries `[S, Q, D]` as the metric compares them, which count `[S, Q]`, and how many do not."""
    sets: list[Any] = [np.asarray(one) for one in queries]
    if not sets:
        raise ValueError("queries is empty, wanted at least one set [Q, D].")
    for number, one in enumerate(sets):
        check_shape(f"queries[{number}]", one, (None, width))
        if not np.issubdtype(one.dtype, np.floating):
            raise TypeError(f"queries[{number}] has dtype {one.dtype}, wanted a floating-point dtype.")
    padded: Any = np.full((len(sets), max(map(len, sets)), width), np.nan, np.float32)
    with np.errstate(over="ignore"):
        for number, one in enumerate(sets):
            padded[number, : len(one)] = one
    asked, counted = map(np.asarray, _turns.usable_queries(padded, metric))
    for number, usable_of_set in enumerate(counted):
        if not usable_of_set.any():
            raise ValueError(
                f"queries[{number}] has no row of {len(sets[number])} that is finite in float32, wanted one or more."
            )
    return asked, counted, sum(map(len, sets)) - int(counted.sum())


@functools.partial(jax.jit, static_argnames="unit")
def _extend(lists, queries, counted, chunk, first, *, unit):
    rows, exists = usable(chunk, unit)
    indices = first + jnp.arange(rows.shape[0], dtype=jnp.int32)
    return _turns.extend_lists(lists, queries, counted, rows, exists, indices)


_take = jax.jit(_turns.take_turns, static_argnames=("k", "size"))
