"""The exact partial pairing, grown pair by pair: its loops, and the choice of one kernel on a TPU."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._platforms import Completion
from minibatch_jax._vector import first_min, first_minima, put
from minibatch_jax.coupling.exact._paths import augment, nearest


class _Forest(NamedTuple):
    """Shortest paths from all free rows at once, as trees.

    A row of the forest reaches column j at distance `cost_ij + key_i - v_j`; `key` is infinity on other rows. For each
    column, `dist` is its distance, `pred` the row before it and `root` the free row that this hangs from. A column that
    was scanned, and its row with it, belongs to the forest: `fixed` is its distance (infinity on others), and `dist` is
    infinity. Where `pred` is -1, `dist` is only a lower bound.
    """

    dist: jax.Array
    pred: jax.Array
    root: jax.Array
    fixed: jax.Array
    key: jax.Array


class _Growth(NamedTuple):
    """A pairing that grows: column of each row and row of each column (-1 for none), and the column potentials."""

    size: jax.Array
    exhausted: jax.Array
    forest: _Forest
    v: jax.Array
    columns: jax.Array
    rows: jax.Array


class _Run(NamedTuple):
    """The loop: all it needs travels in its carry, so that eager calls compile only once."""

    cost: jax.Array
    transposed: jax.Array
    pairs: jax.Array
    history: jax.Array
    growth: _Growth


class _Search(NamedTuple):
    """The search for the nearest free column: column j, at the least distance, is next."""

    low: jax.Array
    j: jax.Array
    run: _Run


def grow(cost: jax.Array, allowed: jax.Array, pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Add pair by pair until there are `pairs` of them or none can be added: all pairings, and the largest size."""
    n, m = cost.shape
    least = jnp.min(cost, initial=jnp.inf, where=allowed)
    cost = jnp.where(allowed, cost - least, jnp.inf)
    size = 0 * jnp.sum(allowed, dtype=jnp.int32)
    history = jnp.full((min(n, m) + 1, n), -1, jnp.int32) + size
    if cost.dtype != jnp.float32 or not 1 < max(n, m) <= _LARGEST_KERNEL:
        return _grow_in_loops(cost, pairs, history, size)
    history, size = _grow_anywhere(cost, pairs, history, size)
    return history, size


def _grow_in_loops(
    cost: jax.Array, pairs: jax.Array, history: jax.Array, size: jax.Array
) -> tuple[jax.Array, jax.Array]:
    run = lax.while_loop(_is_growing, _add_pair, _Run(cost, cost.T, pairs, history, _plant(cost)))
    return run.history, run.growth.size


def _grow_in_kernel(*problem: jax.Array) -> tuple[jax.Array, jax.Array]:
    from minibatch_jax.coupling.exact._partial_kernel import grow_in_kernel

    return grow_in_kernel(*problem)


def _grow_stack_in_kernel(*problems: jax.Array) -> tuple[jax.Array, jax.Array]:
    return lax.map(lambda problem: _grow_in_kernel(*problem), problems)


_grow_anywhere = Completion(2, _grow_in_loops, _grow_in_kernel, _grow_stack_in_kernel)
_LARGEST_KERNEL = 1024  # rows and columns: 12 MB of costs and pairings


def _plant(cost: jax.Array) -> _Growth:
    """No pairs: every row is free, a tree of its own."""
    n, m = cost.shape
    dist, pred = first_minima(cost, axis=0)
    zero = 0 * pred[0]
    columns, rows = jnp.full(n, -1, jnp.int32) + zero, jnp.full(m, -1, jnp.int32) + zero
    v, key = (0 * x.astype(cost.dtype) for x in (rows, columns))
    return _Growth(zero, zero > 0, _Forest(dist, pred, pred, v + jnp.inf, key), v, columns, rows)


def _is_growing(r: _Run) -> jax.Array:
    return (r.growth.size < r.pairs) & ~r.growth.exhausted


def _add_pair(r: _Run) -> _Run:
    found = lax.while_loop(_is_searching, _search_on, _look(r))
    growth = _pair(found)
    return r._replace(growth=growth, history=r.history.at[growth.size].set(growth.columns))


def _look(r: _Run) -> _Search:
    return _Search(*nearest(r.growth.forest.dist, r.growth.rows), r)


def _is_searching(s: _Search) -> jax.Array:
    growth = s.run.growth
    return jnp.isfinite(s.low) & ((growth.forest.pred[s.j] < 0) | (growth.rows[s.j] >= 0))


def _search_on(s: _Search) -> _Search:
    """Measure the distance of a column that has only a bound, or scan the row of one that is not free."""
    r, g, j = s.run, s.run.growth, s.j

    def measure(f):
        low, i = first_min(r.transposed[j] + f.key)
        root = jnp.where(g.columns[i] < 0, i, f.root[g.columns[i]])
        return f._replace(dist=put(f.dist, j, low - g.v[j]), pred=put(f.pred, j, i), root=put(f.root, j, root))

    def scan(f):
        owner = g.rows[j]
        key = s.low + g.v[j] - r.cost[owner, j]
        fixed, left = put(f.fixed, j, s.low), put(f.dist, j, jnp.inf)
        reached = jnp.where(fixed < jnp.inf, jnp.inf, (r.cost[owner] + key) - g.v)
        nearer = reached < left
        pred, root = jnp.where(nearer, owner, f.pred), jnp.where(nearer, f.root[j], f.root)
        return _Forest(jnp.minimum(left, reached), pred, root, fixed, put(f.key, owner, key))

    forest = lax.cond(g.forest.pred[j] < 0, measure, scan, g.forest)
    return _look(r._replace(growth=g._replace(forest=forest)))


def _pair(s: _Search) -> _Growth:
    """Pair the free column that was found. Its tree leaves the forest; what the tree reached is measured again."""
    g, f = s.run.growth, s.run.growth.forest
    found = _is_growing(s.run) & jnp.isfinite(s.low)
    columns, rows = augment(jnp.where(found, s.j, -1), f.pred, g.columns, g.rows)
    free = f.root[s.j]
    reached = (f.root == free) & found
    felled = reached & (f.fixed < jnp.inf)
    own = jnp.where(g.columns < 0, lax.iota(jnp.int32, g.columns.shape[0]) == free, felled[g.columns]) & found
    forest = _Forest(
        dist=jnp.where(felled, s.low, f.dist),
        pred=jnp.where(reached, -1, f.pred),
        root=jnp.where(reached, -1, f.root),
        fixed=jnp.where(felled, jnp.inf, f.fixed),
        key=jnp.where(own, jnp.inf, f.key),
    )
    v = jnp.where(felled, g.v + jnp.minimum(f.fixed - s.low, 0), g.v)
    return _Growth(g.size + found.astype(jnp.int32), ~found, forest, v, columns, rows)
