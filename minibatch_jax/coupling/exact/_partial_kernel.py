"""The exact partial pairing as one Pallas kernel for a TPU: all searches run inside, with the costs in its memory.

The steps are those of the loops in `_growth`; vectors and numbers are those of `_assignment_kernel`. The costs lie
there twice, by rows and by columns. A row of the forest notes the free row that its tree hangs from.

Not run on a TPU. Its results were compared in Pallas' interpret mode, and the TPU compiler takes it for v5e.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from minibatch_jax._vector import first_minima
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


class _Forest(NamedTuple):
    """The trees, as in the loops; `tree` holds the free row that a row of the forest hangs from."""

    dist: jax.Array
    pred: jax.Array
    root: jax.Array
    fixed: jax.Array
    key: jax.Array
    tree: jax.Array


class _Pairing(NamedTuple):
    """The pairing, and the column potentials."""

    columns: jax.Array
    rows: jax.Array
    v: jax.Array


class _Growth(NamedTuple):
    goes_on: jax.Array
    size: jax.Array
    forest: _Forest
    pairing: _Pairing


class _Search(NamedTuple):
    """The search for the nearest free column: column j, at the least distance, is next.

    `task` is j to measure its distance, the number of columns above its owner to scan that row, more to stop.
    """

    task: jax.Array
    left: jax.Array
    low: jax.Array
    j: jax.Array
    forest: _Forest


def grow_in_kernel(
    cost: jax.Array, pairs: jax.Array, history: jax.Array, size: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Add pair by pair until there are `pairs` of them or none can be added.

    It ends for whatever costs: a search measures each column and scans each row at most once.

    Args:
      cost: `[n, m]` float32, at least 0, infinity on forbidden pairs.
      pairs: `[]` int32, how many are wanted.
      history: `[K + 1, n]` int32, only for its shape.
      size: `[]` int32, only for its type.
      interpret: whether to run it as JAX operations, static: for tests on a CPU.

    Returns:
      The pairings of each size, -1 for rows and sizes without, and the largest size.
    """
    n, m = cost.shape
    tiles = -(-max(n, m) // LANES)

    def tile(x, filler):
        x = jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, tiles * LANES - x.shape[-1]),), constant_values=filler)
        return x.reshape(*x.shape[:-1], tiles, LANES)

    dist, pred = first_minima(cost, axis=0)
    vectors = tile(dist, jnp.inf), tile(pred.astype(jnp.float32), 0)
    kind = varying_as(vectors[0] + vectors[1] + size.astype(jnp.float32))
    shapes = [kind.update(shape=(history.shape[0], *kind.shape)), kind]
    count = jnp.broadcast_to(pairs, (1, 1)) + (0 * vectors[1][:1, :1]).astype(jnp.int32)
    history, largest = pl.pallas_call(
        _kernel,
        out_shape=shapes,
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *(pl.BlockSpec(memory_space=pltpu.VMEM),) * 4],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=MEMORY),
        interpret=interpret,
        name="grow_in_kernel",
    )(count, tile(cost, jnp.inf), tile(cost.T, jnp.inf), *vectors)
    history = history.reshape(history.shape[0], -1)[:, :n]
    return history.astype(jnp.int32), largest[0, 0].astype(jnp.int32)


def _kernel(pairs, cost, transposed, dist, pred, history, largest) -> None:
    """Plant the forest, then add pair by pair, each noted in the history."""
    n, m, iota = cost.shape[0], transposed.shape[0], numbers(dist.shape)
    none, zero = 0 * iota - 1, 0 * iota

    def clear(k, carry):
        history[k] = none
        return carry

    lax.fori_loop(0, history.shape[0], clear, 0)
    forest = _Forest(dist[...], pred[...], pred[...], zero + jnp.inf, jnp.where(iota < n, 0, jnp.inf), iota)
    most = jnp.minimum(pairs[0, 0], history.shape[0] - 1)
    start = _Growth(most > 0, jnp.int32(0), forest, _Pairing(none, jnp.where(iota < m, -1.0, 0.0), zero))

    def add(g):
        found = _search(cost, transposed, iota, g)
        grown = _add(n, iota, g, found, found.task > 2 * iota.size)
        history[grown.size] = grown.pairing.columns
        return grown._replace(goes_on=(grown.size > g.size) & (grown.size < most))

    end = lax.while_loop(lambda g: g.goes_on, add, start)
    largest[...] = zero + end.size.astype(jnp.float32)


def _look(iota: jax.Array, rows: jax.Array, forest: _Forest, left: jax.Array) -> _Search:
    """Find the nearest column and what to do with it: `2 size` if none is reached, one more if it is free."""
    size = float(iota.size)
    low = least(forest.dist)
    j, _ = first(forest.dist == low, iota, rows)
    at = iota == j
    owner = entry(rows, at)
    task = jnp.where(owner >= 0, size + owner, 2 * size + 1)
    task = jnp.where(entry(forest.pred, at) < 0, j, task)
    task = jnp.where(low < jnp.inf, task, 2 * size)
    return _Search(index(task), left, low, j, forest)


def _search(cost, transposed, iota: jax.Array, g: _Growth) -> _Search:
    """Measure the distances of columns that have only a bound, and scan the rows of those that are not free."""
    n, m, size = cost.shape[0], transposed.shape[0], iota.size
    _, rows, v = g.pairing

    def measure(s):
        f, at = s.forest, iota == s.j
        to_rows = transposed[jnp.clip(s.task, 0, m - 1)] + f.key
        low = least(to_rows)
        i = least(jnp.where(to_rows == low, iota, float(n - 1)))
        dist, pred = jnp.where(at, low - v, f.dist), jnp.where(at, i, f.pred)
        return f._replace(dist=dist, pred=pred, root=jnp.where(at, entry(f.tree, iota == i), f.root))

    def scan(s):
        f, at = s.forest, iota == s.j
        row = cost[jnp.clip(s.task - size, 0, n - 1)]
        key = entry((s.low + v) - row, at)
        tree = entry(f.root, at)
        fixed, left = jnp.where(at, s.low, f.fixed), jnp.where(at, jnp.inf, f.dist)
        reached = jnp.where(fixed < jnp.inf, jnp.inf, (row + key) - v)
        nearer = reached < left
        owner = (s.task - size).astype(jnp.float32)
        pred, root = jnp.where(nearer, owner, f.pred), jnp.where(nearer, tree, f.root)
        own = iota == owner
        key, tree = jnp.where(own, key, f.key), jnp.where(own, tree, f.tree)
        return _Forest(jnp.minimum(left, reached), pred, root, fixed, key, tree)

    def step(s):
        return _look(iota, rows, lax.cond(s.task < size, measure, scan, s), s.left - 1)

    start = _look(iota, rows, g.forest, jnp.int32(n + m))
    return lax.while_loop(lambda s: (s.task < 2 * size) & (s.left > 0), step, start)


def _add(n: int, iota: jax.Array, g: _Growth, s: _Search, found: jax.Array) -> _Growth:
    """Pair the free column that was found. Its tree leaves the forest; what the tree reached is measured again."""
    f = s.forest
    columns, rows, v = g.pairing

    columns, rows = flip_path(found, n, iota, f.pred, s.j, columns, rows)
    free = jnp.where(found, entry(f.root, iota == s.j), FAR)
    reached = f.root == free
    felled = reached & (f.fixed < jnp.inf)
    forest = _Forest(
        dist=jnp.where(felled, s.low, f.dist),
        pred=jnp.where(reached, -1.0, f.pred),
        root=jnp.where(reached, -1.0, f.root),
        fixed=jnp.where(felled, jnp.inf, f.fixed),
        key=jnp.where(f.tree == free, jnp.inf, f.key),
        tree=f.tree,
    )
    v = jnp.where(felled, v + jnp.minimum(f.fixed - s.low, 0), v)
    return _Growth(g.goes_on, g.size + found.astype(jnp.int32), forest, _Pairing(columns, rows, v))
