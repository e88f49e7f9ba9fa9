"""The exact pairing as one Pallas kernel for a TPU: all bids and searches run inside.

The steps are those of the loops in `assignments`, but a step costs a few hundred cycles here, where each operation of a
loop is started anew. Vectors are tiles of 128 lanes. Row and column numbers are float32, which has one cross-lane
minimum where int32 takes two, and scalars stay `[1, 1]` in the vector unit: only the row that is read next leaves it.
The costs are in the kernel's memory if they fit, else each step copies the row that it reads.

Not run on a TPU. Its results were compared in Pallas' interpret mode, and the TPU compiler takes it for v5e.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from minibatch_jax.coupling.exact._tiles import (
    FAR,
    LANES,
    MEMORY,
    entry,
    first,
    flip_path,
    index,
    least,
    numbers,
    varying_as,
)

_TILE = 8 * LANES  # what a copy moves at least


class _Bids(NamedTuple):
    """Bids in progress: row `i` bids next, `last` the last row that was free."""

    goes_on: jax.Array
    bids: jax.Array
    i: jax.Array
    last: jax.Array
    columns: jax.Array
    rows: jax.Array
    v: jax.Array


class _Searches(NamedTuple):
    """Searches in progress: the next begins at the free row `root`."""

    goes_on: jax.Array
    root: jax.Array
    columns: jax.Array
    rows: jax.Array
    v: jax.Array


class _Search(NamedTuple):
    """One search: row `i` is read next, at the nearest column `j`, `at` 1 there.

    `dist`, `pred`, `fixed`, `w` are those of the loop, `low` the distance of column j, `left` the least of the columns
    after it.
    """

    i: jax.Array
    scans: jax.Array
    j: jax.Array
    low: jax.Array
    left: jax.Array
    at: jax.Array
    dist: jax.Array
    pred: jax.Array
    fixed: jax.Array
    w: jax.Array


def pair_in_kernel(
    reduced: jax.Array,
    active: jax.Array,
    columns: jax.Array,
    rows: jax.Array,
    v: jax.Array,
    *,
    held: bool | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Complete a matching of reduced costs `[n, m]`, n at most m, by bids and shortest paths.

    It ends for whatever costs, NaN too: 2n bids at most, and n searches of n rows. Finite costs need no more.

    Args:
      reduced: `[n, m]` float32.
      active: `[n]` bool, the rows to pair.
      columns: `[n]` int32, the column of each row, -1 for none.
      rows: `[m]` int32, the row of each column, -1 for none.
      v: `[m]` float32, the column potentials.
      held: whether the costs are in the kernel's memory, static; as far as they fit by default.
      interpret: whether to run it as JAX operations, static: for tests on a CPU.

    Returns:
      The same three, with all active rows paired.
    """
    n, m = reduced.shape
    if held is None:
        held = fits(n, m)
    length = -(-m // LANES) * LANES if held else -(-m // _TILE) * _TILE
    costs = jnp.pad(reduced, ((0, 0), (0, length - m)), constant_values=jnp.inf).reshape(n, -1, LANES)
    columns = jnp.where(active, columns, n + m)  # rows that stay out look as if they were paired
    tiled = [jnp.pad(x.astype(jnp.float32), (0, length - x.size)).reshape(-1, LANES) for x in (columns, rows, v)]
    shape = varying_as(costs[0] + sum(tiled))
    held_there = pl.BlockSpec(memory_space=pltpu.VMEM)
    found = pl.pallas_call(
        functools.partial(_kernel if held else _copying_kernel, n=n),
        out_shape=(shape,) * 3,
        in_specs=[held_there if held else pl.BlockSpec(memory_space=pl.ANY), *(held_there,) * 3],
        scratch_shapes=() if held else (pltpu.VMEM(shape.shape, jnp.float32), pltpu.SemaphoreType.DMA),
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=MEMORY),
        interpret=interpret,
        name="pair_in_kernel",
    )(costs, *tiled)
    columns, rows, v = (x.reshape(-1) for x in found)
    columns = jnp.where(active, columns[:n].astype(jnp.int32), -1)
    return columns, rows[:m].astype(jnp.int32), v[:m]


def fits(n: int, m: int) -> bool:
    """Whether costs `[n, m]` have room in the kernel's memory, twice: a stack copies the next ones ahead."""
    return 4 * n * (-(-m // _TILE) * _TILE) <= MEMORY // 3


def _kernel(costs, columns, rows, v, columns_out, rows_out, v_out, *, n: int) -> None:
    """Read the matching, complete it, write it."""
    found = _pair(lambda i: costs[jnp.clip(i, 0, n - 1)], n, columns[...], rows[...], v[...])
    columns_out[...], rows_out[...], v_out[...] = found


def _copying_kernel(costs, columns, rows, v, columns_out, rows_out, v_out, row, copied, *, n: int) -> None:
    """Do as `_kernel` with costs in the TPU's main memory."""

    def load(i):
        copy = pltpu.make_async_copy(costs.at[jnp.clip(i, 0, n - 1)], row, copied)
        copy.start()
        copy.wait()
        return row[...]

    columns_out[...], rows_out[...], v_out[...] = _pair(load, n, columns[...], rows[...], v[...])


def _pair(
    load: Callable[[jax.Array], jax.Array],
    n: int,
    columns: jax.Array,
    rows: jax.Array,
    v: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Bid, then search: `load` reads a row of costs, whose padding columns cost infinity."""
    iota = numbers(v.shape)
    root = _next_free(n, iota, columns, -1.0)
    none = 0 * root - 1
    bids = _Bids(index(root) < n, jnp.int32(0), root, none, columns, rows, v)
    bids = lax.while_loop(lambda s: s.goes_on & (s.bids < 2 * n), functools.partial(_bid_once, load, n, iota), bids)
    root = _next_free(n, iota, bids.columns, -1.0)
    searches = _Searches(index(root) < n, root, bids.columns, bids.rows, bids.v)
    searches = lax.while_loop(lambda s: s.goes_on, functools.partial(_search_once, load, n, iota), searches)
    return searches.columns, searches.rows, searches.v


def _bid_once(load: Callable[[jax.Array], jax.Array], n: int, iota: jax.Array, s: _Bids) -> _Bids:
    slack = load(index(s.i)) - s.v
    best = least(slack)
    j, free = first(slack == best, iota, s.rows)
    at = iota == j
    gap = least(jnp.where(at, jnp.inf, slack)) - best
    loser = jnp.where(free, -1.0, entry(s.rows, at))
    columns = jnp.where(iota == loser, -1.0, s.columns)
    columns = jnp.where(iota == s.i, j, columns)
    last = jnp.maximum(s.last, s.i)
    i = jnp.where((loser >= 0) & (gap > 0), loser, _next_free(n, iota, columns, last))
    rows, v = jnp.where(at, s.i, s.rows), jnp.where(at, s.v - gap, s.v)
    return _Bids(index(i) < n, s.bids + 1, i, last, columns, rows, v)


def _search_once(load: Callable[[jax.Array], jax.Array], n: int, iota: jax.Array, s: _Searches) -> _Searches:
    """Pair the free row `root` along a shortest path."""
    zero = 0 * s.root
    none, far = 0 * iota, 0 * iota + jnp.inf
    start = _Search(index(s.root), jnp.int32(0), zero, zero, zero + jnp.inf, none, far, none, far, s.v)
    step = functools.partial(_scan, load, iota, s.rows, s.v)
    found = lax.while_loop(lambda t: (t.i >= 0) & (t.scans < n), step, start)
    v = s.v + jnp.minimum(found.fixed - found.low, 0)

    columns, rows = flip_path(found.i < 0, n, iota, found.pred, found.j, s.columns, s.rows)
    root = _next_free(n, iota, columns, s.root)
    return _Searches(index(root) < n, root, columns, rows, v)


def _scan(
    load: Callable[[jax.Array], jax.Array], iota: jax.Array, rows: jax.Array, v: jax.Array, t: _Search
) -> _Search:
    """Read row `i`, then go on to the owner of the nearest column, -1 if it has none."""
    row = load(t.i)
    owned = least(jnp.where(t.at > 0, row - v, FAR))
    h = jnp.where(owned < FAR, t.low - owned, 0.0)  # at the root no column is marked
    reached = (row - t.w) + h
    pred = jnp.where(reached < t.dist, t.i.astype(jnp.float32), t.pred)
    dist = jnp.minimum(t.dist, reached)
    # The minimum of `dist` without waiting for h: rounding is monotone, so h can be added to the minimum
    low = jnp.minimum(t.left, least(row - t.w) + h)
    j, free = first(dist == low, iota, rows)
    at = iota == j
    owner = jnp.where(free, -1.0, entry(rows, at))
    left = jnp.where(at, jnp.inf, dist)
    fixed, w = jnp.where(at & ~free, low, t.fixed), jnp.where(at, -jnp.inf, t.w)
    return _Search(index(owner), t.scans + 1, j, low, least(left), at.astype(jnp.float32), left, pred, fixed, w)


def _next_free(n: int, iota: jax.Array, columns: jax.Array, after: jax.Array | float) -> jax.Array:
    return least(jnp.where((columns < 0) & (iota > after) & (iota < n), iota, float(n)))
