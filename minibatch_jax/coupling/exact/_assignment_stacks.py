"""Stacks of exact pairings on a TPU: small problems side by side, one on each lane, large ones one after another.

On lanes the columns of a problem lie on sublanes, so that no minimum crosses lanes. Each lane bids, scans or flips on
its own, so that none waits for another in a loop; the rows that they read next are picked in one sweep over all rows.
The steps of a problem are those of the loops in `assignments`.

Not run on a TPU. Its results were compared in Pallas' interpret mode, and the TPU compiler takes it for v5e.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from minibatch_jax.coupling.exact._assignment_kernel import fits, pair_in_kernel
from minibatch_jax.coupling.exact._tiles import FAR, LANES, MEMORY, varying_as

_FEWEST = 32  # problems that repay the sweep
_WIDEST = 128  # columns: 8 MB of costs
_SWEPT = 8  # rows at a time
_BID, _SCAN, _FLIP, _DONE = 0.0, 1.0, 2.0, 3.0

_Matchings = tuple[jax.Array, jax.Array, jax.Array]


class _Lanes(NamedTuple):
    """A problem on each lane: `mode` is what it does next, `i` the row that it reads.

    A search came from column `j` at distance `low` (-1 at its root), a flip goes on at column `j`. The others are those
    of the loops, vectors on sublanes.
    """

    steps: jax.Array
    mode: jax.Array
    i: jax.Array
    j: jax.Array
    low: jax.Array
    last: jax.Array
    bids: jax.Array
    columns: jax.Array
    rows: jax.Array
    v: jax.Array
    dist: jax.Array
    pred: jax.Array
    fixed: jax.Array
    w: jax.Array


def pair_stack(
    reduced: jax.Array, active: jax.Array, columns: jax.Array, rows: jax.Array, v: jax.Array, *, interpret: bool = False
) -> _Matchings:
    """Complete the matchings of a stack of problems as `pair_in_kernel` does for one: `[P, n, m]`, `[P, n]`, ...

    P may be symbolic, as in a program that is exported for every batch size: then one after another.
    """
    stack, n, m = reduced.shape
    is_known = not jax.export.is_symbolic_dim(stack)
    if is_known and stack >= _FEWEST and m <= _WIDEST:
        return pair_on_lanes(reduced, active, columns, rows, v, interpret=interpret)
    pair = functools.partial(pair_in_kernel, interpret=interpret)
    if is_known and fits(n, m):
        return jax.vmap(pair)(reduced, active, columns, rows, v)
    return lax.map(lambda problem: pair(*problem), (reduced, active, columns, rows, v))


def pair_on_lanes(
    reduced: jax.Array, active: jax.Array, columns: jax.Array, rows: jax.Array, v: jax.Array, *, interpret: bool = False
) -> _Matchings:
    """Complete the matchings of problems of at most 128 columns, 128 problems at a time.

    It ends for whatever costs, NaN too: after as many steps as finite costs may need.

    Args:
      reduced: `[P, n, m]` float32, n at most m.
      active: `[P, n]` bool, the rows to pair.
      columns: `[P, n]` int32, the column of each row, -1 for none.
      rows: `[P, m]` int32, the row of each column, -1 for none.
      v: `[P, m]` float32, the column potentials.
      interpret: whether to run it as JAX operations, static: for tests on a CPU.

    Returns:
      The same three, with all active rows paired.
    """
    stack, n, m = reduced.shape
    columns = jnp.where(active, columns, n + m)  # rows that stay out look as if they were paired
    height, depth = (-(-size // 8) * 8 for size in (m, n))
    costs = jnp.pad(reduced, ((0, 0), (0, depth - n), (0, height - m)), constant_values=jnp.inf)
    vectors = [jnp.pad(x.astype(jnp.float32), ((0, 0), (0, height - x.shape[1]))) for x in (columns, rows, v)]
    costs, *vectors = (_on_lanes(x) for x in (costs, *vectors))
    shape = varying_as(costs[:, 0] + sum(vectors))
    vector = pl.BlockSpec((None, height, LANES), lambda g: (g, 0, 0))
    found = pl.pallas_call(
        functools.partial(_kernel, n=n),
        grid=(costs.shape[0],),
        in_specs=[
            pl.BlockSpec((None, depth, height, LANES), lambda g: (g, 0, 0, 0), pipeline_mode=pl.Buffered(1)),
            *(vector,) * 3,
        ],
        out_specs=[vector] * 3,
        out_shape=[shape] * 3,
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=MEMORY),
        interpret=interpret,
        name="pair_on_lanes",
    )(costs, *vectors)
    columns, rows, v = (jnp.moveaxis(x, 1, 2).reshape(-1, height)[:stack] for x in found)
    columns = jnp.where(active, columns[:, :n].astype(jnp.int32), -1)
    return columns, rows[:, :m].astype(jnp.int32), v[:, :m]


def _on_lanes(x: jax.Array) -> jax.Array:
    """Bring `[P, ...]` to `[P / 128, ..., 128]`; problems of zeros, whose rows are all paired, fill the last lanes."""
    x = jnp.pad(x, ((0, -x.shape[0] % LANES), *((0, 0),) * (x.ndim - 1)))
    return jnp.moveaxis(x.reshape(-1, LANES, *x.shape[1:]), 1, -1)


def _kernel(costs, columns, rows, v, columns_out, rows_out, v_out, *, n: int) -> None:
    """Read the matchings, complete them, write them."""

    def load(i):
        def sweep(part, row):
            for k in range(_SWEPT):
                number = part * _SWEPT + k
                row = jnp.where(i == number.astype(jnp.float32), costs[number], row)
            return row

        return lax.fori_loop(0, costs.shape[0] // _SWEPT, sweep, 0 * v[...])

    iota = lax.broadcasted_iota(jnp.int32, v.shape, 0).astype(jnp.float32)
    start = _start(n, iota, columns[...], rows[...], v[...])
    most = 2 * n + n * (2 * n + 1)  # bids, and searches of n scans and n flips

    def goes_on(s):
        return (jnp.min(s.mode) < _DONE) & (s.steps < most)

    end = lax.while_loop(goes_on, functools.partial(_step, load, n, iota), start)
    columns_out[...], rows_out[...], v_out[...] = end.columns, end.rows, end.v


def _start(n: int, iota: jax.Array, columns: jax.Array, rows: jax.Array, v: jax.Array) -> _Lanes:
    first = _next_free(n, iota, columns, -1.0)
    zero, far = 0 * first, 0 * v + jnp.inf
    mode = jnp.where(first < n, _BID, _DONE)
    return _Lanes(jnp.int32(0), mode, first, zero - 1, zero, zero - 1, zero, columns, rows, v, far, 0 * v - 1, far, v)


def _step(load: Callable[[jax.Array], jax.Array], n: int, iota: jax.Array, s: _Lanes) -> _Lanes:
    """Do a bid, the scan of a row or the flip of a pair, whichever is next on a lane."""
    bids, scans, flips = s.mode == _BID, s.mode == _SCAN, s.mode == _FLIP
    row = load(s.i)
    h = jnp.where(s.j >= 0, s.low - _entry(row - s.v, iota == s.j), 0)
    reached = (row - jnp.where(bids, s.v, s.w)) + jnp.where(bids, 0, h)
    pred = jnp.where(scans & (reached < s.dist), s.i, s.pred)
    near = jnp.where(bids, reached, jnp.minimum(s.dist, reached))
    low = _least(near)
    j, free = _first(near == low, iota, s.rows)
    at = iota == j
    owner = jnp.where(free, -1.0, _entry(s.rows, at))
    gap = _least(jnp.where(at, jnp.inf, near)) - low
    ends, extends = scans & free, scans & ~free

    flipped = iota == s.j
    i = _entry(pred, flipped)
    following = _entry(s.columns, iota == i)
    columns = jnp.where(bids & (iota == owner), -1.0, s.columns)
    columns = jnp.where(bids & (iota == s.i), j, columns)
    columns = jnp.where(flips & (iota == i), s.j, columns)
    rows = jnp.where(bids & at, s.i, jnp.where(flips & flipped, i, s.rows))
    v = jnp.where(bids & at, s.v - gap, jnp.where(ends, s.v + jnp.minimum(s.fixed - low, 0), s.v))

    done = s.bids + jnp.where(bids, 1.0, 0.0)
    last = jnp.where(bids, jnp.maximum(s.last, s.i), s.last)
    bidder = jnp.where((owner >= 0) & (gap > 0), owner, _next_free(n, iota, columns, last))
    begins = (bids & ((bidder >= n) | (done >= 2 * n))) | (flips & (following < 0))
    root = _next_free(n, iota, columns, -1.0)
    mode = jnp.where(begins, jnp.where(root < n, _SCAN, _DONE), jnp.where(ends, _FLIP, s.mode))
    return _Lanes(
        steps=s.steps + 1,
        mode=mode,
        i=jnp.where(begins, root, jnp.where(bids, bidder, jnp.where(extends, owner, s.i))),
        j=jnp.where(begins, -1.0, jnp.where(flips, following, jnp.where(scans, j, s.j))),
        low=low,
        last=last,
        bids=done,
        columns=columns,
        rows=rows,
        v=v,
        dist=jnp.where(begins | (extends & at), jnp.inf, jnp.where(scans, near, s.dist)),
        pred=pred,
        fixed=jnp.where(begins, jnp.inf, jnp.where(extends & at, low, s.fixed)),
        w=jnp.where(begins, v, jnp.where(extends & at, -jnp.inf, s.w)),
    )


def _least(x: jax.Array) -> jax.Array:
    """Return the minimum on each lane, `[1, 128]`."""
    return jnp.min(x, axis=0, keepdims=True)


def _entry(x: jax.Array, at: jax.Array) -> jax.Array:
    """Return the marked entry of each lane."""
    return _least(jnp.where(at, x, FAR))


def _first(marked: jax.Array, iota: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the first marked column, one without a row before those with one, and whether it has none."""
    size = float(iota.shape[0])
    order = _least(jnp.where(marked, iota + jnp.where(rows < 0, 0.0, size), 2 * size - 1))
    return jnp.where(order < size, order, order - size), order < size


def _next_free(n: int, iota: jax.Array, columns: jax.Array, after: jax.Array | float) -> jax.Array:
    return _least(jnp.where((columns < 0) & (iota > after) & (iota < n), iota, float(n)))
