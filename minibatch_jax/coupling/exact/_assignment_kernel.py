"""The exact pairing as one Pallas kernel for a TPU: all bids and searches run inside, with the costs in its memory.

The steps are those of the loops in `assignments`, but a step costs a few hundred cycles here, where each operation of a
loop is started anew. Vectors are tiles of 128 lanes. Row and column numbers are float32, which has one cross-lane
minimum where int32 takes two, and scalars stay `[1, 1]` in the vector unit: only the row that is read next leaves it.

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

_LANES = 128
_FAR = 3e38  # above all prices and numbers
_MEMORY = 14 * 2**20  # of 16 MB, the least that a TPU has


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


class _Flip(NamedTuple):
    """A path flipped as far as column `j`; `left` bounds its pairs."""

    goes_on: jax.Array
    left: jax.Array
    j: jax.Array
    columns: jax.Array
    rows: jax.Array


def pair_in_kernel(
    reduced: jax.Array,
    active: jax.Array,
    columns: jax.Array,
    rows: jax.Array,
    v: jax.Array,
    *,
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
      interpret: whether to run it as JAX operations, static: for tests on a CPU.

    Returns:
      The same three, with all active rows paired.
    """
    n, m = reduced.shape
    tiles = -(-m // _LANES)
    spare = tiles * _LANES - m
    costs = jnp.pad(reduced, ((0, 0), (0, spare)), constant_values=jnp.inf).reshape(n, tiles, _LANES)
    columns = jnp.where(active, columns, n + m)  # rows that stay out look as if they were paired
    vectors = (columns, m - n), (rows, 0), (v, 0)
    tiled = [jnp.pad(x.astype(jnp.float32), (0, longer + spare)).reshape(tiles, _LANES) for x, longer in vectors]
    kind = jax.typeof(costs[0] + sum(tiled))  # inside `shard_map`, along which axes these differ
    shape = jax.ShapeDtypeStruct(kind.shape, kind.dtype, manual_axis_type=kind.manual_axis_type)
    found = pl.pallas_call(
        functools.partial(_kernel, n=n),
        out_shape=(shape,) * 3,
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=_MEMORY),
        interpret=interpret,
        name="pair_in_kernel",
    )(costs, *tiled)
    columns, rows, v = (x.reshape(-1) for x in found)
    columns = jnp.where(active, columns[:n].astype(jnp.int32), -1)
    return columns, rows[:m].astype(jnp.int32), v[:m]


def _kernel(costs, columns, rows, v, columns_out, rows_out, v_out, *, n: int) -> None:
    """Read the matching, complete it, write it."""
    tile, lane = (lax.broadcasted_iota(jnp.int32, v.shape, axis) for axis in (0, 1))
    iota = (tile * _LANES + lane).astype(jnp.float32)
    found = _pair(lambda i: costs[jnp.clip(i, 0, n - 1)], n, iota, columns[...], rows[...], v[...])
    columns_out[...], rows_out[...], v_out[...] = found


def _pair(
    load: Callable[[jax.Array], jax.Array],
    n: int,
    iota: jax.Array,
    columns: jax.Array,
    rows: jax.Array,
    v: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Bid, then search: `load` reads a row of costs, `iota` numbers the columns (the padding ones cost infinity)."""
    root = _next_free(n, iota, columns, -1.0)
    none = 0 * root - 1
    bids = _Bids(_index(root) < n, jnp.int32(0), root, none, columns, rows, v)
    bids = lax.while_loop(lambda s: s.goes_on & (s.bids < 2 * n), functools.partial(_bid_once, load, n, iota), bids)
    root = _next_free(n, iota, bids.columns, -1.0)
    searches = _Searches(_index(root) < n, root, bids.columns, bids.rows, bids.v)
    searches = lax.while_loop(lambda s: s.goes_on, functools.partial(_search_once, load, n, iota), searches)
    return searches.columns, searches.rows, searches.v


def _bid_once(load: Callable[[jax.Array], jax.Array], n: int, iota: jax.Array, s: _Bids) -> _Bids:
    slack = load(_index(s.i)) - s.v
    best = _least(slack)
    j, free = _first(slack == best, iota, s.rows)
    at = iota == j
    gap = _least(jnp.where(at, jnp.inf, slack)) - best
    loser = jnp.where(free, -1.0, _entry(s.rows, at))
    columns = jnp.where(iota == loser, -1.0, s.columns)
    columns = jnp.where(iota == s.i, j, columns)
    last = jnp.maximum(s.last, s.i)
    i = jnp.where((loser >= 0) & (gap > 0), loser, _next_free(n, iota, columns, last))
    rows, v = jnp.where(at, s.i, s.rows), jnp.where(at, s.v - gap, s.v)
    return _Bids(_index(i) < n, s.bids + 1, i, last, columns, rows, v)


def _search_once(load: Callable[[jax.Array], jax.Array], n: int, iota: jax.Array, s: _Searches) -> _Searches:
    """Pair the free row `root` along a shortest path."""
    zero = 0 * s.root
    none, far = 0 * iota, 0 * iota + jnp.inf
    start = _Search(_index(s.root), jnp.int32(0), zero, zero, zero + jnp.inf, none, far, none, far, s.v)
    step = functools.partial(_scan, load, iota, s.rows, s.v)
    found = lax.while_loop(lambda t: (t.i >= 0) & (t.scans < n), step, start)
    v = s.v + jnp.minimum(found.fixed - found.low, 0)

    def flip(t):
        i = _entry(found.pred, iota == t.j)
        following = _entry(t.columns, iota == i)
        columns, rows = jnp.where(iota == i, t.j, t.columns), jnp.where(iota == t.j, i, t.rows)
        return _Flip(_index(following) >= 0, t.left - 1, following, columns, rows)

    path = _Flip(found.i < 0, jnp.int32(n), found.j, s.columns, s.rows)
    path = lax.while_loop(lambda t: t.goes_on & (t.left > 0), flip, path)
    root = _next_free(n, iota, path.columns, s.root)
    return _Searches(_index(root) < n, root, path.columns, path.rows, v)


def _scan(
    load: Callable[[jax.Array], jax.Array], iota: jax.Array, rows: jax.Array, v: jax.Array, t: _Search
) -> _Search:
    """Read row `i`, then go on to the owner of the nearest column, -1 if it has none."""
    row = load(t.i)
    owned = _least(jnp.where(t.at > 0, row - v, _FAR))
    h = jnp.where(owned < _FAR, t.low - owned, 0.0)  # at the root no column is marked
    reached = (row - t.w) + h
    pred = jnp.where(reached < t.dist, t.i.astype(jnp.float32), t.pred)
    dist = jnp.minimum(t.dist, reached)
    # The minimum of `dist` without waiting for h: rounding is monotone, so h can be added to the minimum
    low = jnp.minimum(t.left, _least(row - t.w) + h)
    j, free = _first(dist == low, iota, rows)
    at = iota == j
    owner = jnp.where(free, -1.0, _entry(rows, at))
    left = jnp.where(at, jnp.inf, dist)
    fixed, w = jnp.where(at & ~free, low, t.fixed), jnp.where(at, -jnp.inf, t.w)
    return _Search(_index(owner), t.scans + 1, j, low, _least(left), at.astype(jnp.float32), left, pred, fixed, w)


def _least(x: jax.Array) -> jax.Array:
    """Return the minimum as `[1, 1]`."""
    return jnp.min(jnp.min(x, axis=1, keepdims=True), axis=0, keepdims=True)


def _entry(x: jax.Array, at: jax.Array) -> jax.Array:
    """Return the marked entry as `[1, 1]`."""
    return _least(jnp.where(at, x, _FAR))


def _index(x: jax.Array) -> jax.Array:
    """Take a number `[1, 1]` out of the vector unit."""
    return x[0, 0].astype(jnp.int32)


def _first(marked: jax.Array, iota: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the first marked column, one without a row before those with one, and whether it has none."""
    size = float(iota.size)
    order = _least(jnp.where(marked, iota + jnp.where(rows < 0, 0.0, size), 2 * size - 1))
    return jnp.where(order < size, order, order - size), order < size


def _next_free(n: int, iota: jax.Array, columns: jax.Array, after: jax.Array | float) -> jax.Array:
    return _least(jnp.where((columns < 0) & (iota > after) & (iota < n), iota, float(n)))
