"""The network simplex method for transport, on a tree of bit sets.

A basis is a spanning tree: an edge is a pair that carries mass, or joins a line (a row or a column) to the root and
carries what is not shipped of its mass. Potentials make all edges of the tree tight. A pivot adds the pair of the least
reduced cost, sends mass around the cycle that it closes, and drops the first edge that this empties.

Each node keeps the set of edges between it and the root, one bit an edge. So a cycle is the symmetric difference of two
sets, and a pivot is a dozen vector operations that follow no pointers. Pairs are priced all at once; the best of each
column serve as candidates for some pivots. Edges to the root cost one level more than any pair: potentials, and the
costs that they reduce, have a level, which comes first.

References:
  Ahuja, Magnanti and Orlin, Network flows, 1993, chapter 11.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._loops import bind, while_loop
from minibatch_jax._vector import first_max, first_min, first_minima, put, vector_min

_PIVOTS_PER_LINE = 50
_ROUNDING = 4  # reduced costs above -4 eps times the largest potential count as 0
_WORTH = 0.1  # candidates serve while the best of them is at least this fraction of the best when they were chosen


class Tree(NamedTuple):
    """A basis: V = B0 + B1 nodes, rows first, and as many edges, whose number is rounded up to E = 32 W.

    `above` `[V, W]` uint32 holds the edges between a node and the root. Edge k joins row `rows[k]` and column
    `columns[k]`, of which B0 and B1 are the root, and carries `flow[k]`; `row_below` `[W]` are the edges whose row is
    farther from the root. `w` `[V]` are the potentials, those of columns negated, and `level` their levels.
    """

    above: jax.Array
    row_below: jax.Array
    rows: jax.Array
    columns: jax.Array
    flow: jax.Array
    w: jax.Array
    level: jax.Array


class _Run(NamedTuple):
    """The loop: all it needs travels in its carry, so that eager calls compile only once.

    `prices` `[V]` are the costs of edges to the root, signed as `w`; a reduced cost above `-slack` counts as 0; a level
    costs `level_cost`, more than any difference of potentials. `rows`, `costs` `[B1]` are the candidates of the
    columns, `column` and `least` the best of them and its reduced cost, `first` the least reduced cost of all pairs
    when they were chosen.
    """

    cost: jax.Array
    prices: jax.Array
    slack: jax.Array
    level_cost: jax.Array
    tree: Tree
    rows: jax.Array
    costs: jax.Array
    column: jax.Array
    least: jax.Array
    first: jax.Array
    pivots: jax.Array


def solve(cost: jax.Array, a: jax.Array, b: jax.Array, u: jax.Array, v: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
    """Return an optimal basis, the number of pivots and whether it was reached, from potentials near the optimum.

    The cost is infinite on pairs that must not carry mass, and the others are at least 0.
    """
    prices = jnp.concatenate([u, -v])
    reach = jnp.max(jnp.max(jnp.where(cost < jnp.inf, cost, 0), axis=0))
    level_cost = 4 * sum(cost.shape) * jnp.maximum(reach, jnp.finfo(cost.dtype).tiny)
    tree = _fill(cost, a, b, prices)
    zero = 0 * reach
    count = zero.astype(jnp.int32)
    rows = count + jnp.zeros_like(v, jnp.int32)
    run = _Run(cost, prices, zero, level_cost, tree, rows, v, count, zero, zero, count)
    run = lax.while_loop(_is_unfinished, _round, _price(run))
    return run.tree, run.pivots, run.first >= -run.slack


def _is_unfinished(r: _Run) -> jax.Array:
    return (r.first < -r.slack) & (r.pivots < _PIVOTS_PER_LINE * sum(r.cost.shape))


def _is_worth(r: _Run) -> jax.Array:
    """Whether the best candidate is still about as good as when the candidates were chosen."""
    enough = r.pivots < _PIVOTS_PER_LINE * sum(r.cost.shape)
    return (r.least < jnp.minimum(_WORTH * r.first, -r.slack)) & enough


def _round(r: _Run) -> _Run:
    """Pivot while the candidates are worth it, then price all pairs anew."""
    r = lax.while_loop(_is_worth, _pivot_once, r)
    w, level = _potentials(r.tree, r.cost, r.prices)
    return _price(r._replace(tree=r.tree._replace(w=w, level=level)))


def _price(r: _Run) -> _Run:
    """Choose the pair of the least reduced cost of each column.

    Potentials round as the largest of them does. It is far less than the largest cost where that stands for pairs that
    nobody wants, and more where few pairs are allowed and the ways between lines are long.
    """
    n = r.cost.shape[0]
    w, level = r.tree.w, r.level_cost * r.tree.level
    reduced = (r.cost - w[:n, None] + w[None, n:]) + (level[None, n:] - level[:n, None])
    low, rows = first_minima(reduced, axis=0)
    least, column = first_min(low)
    costs = r.cost[rows, lax.iota(jnp.int32, rows.shape[0])]
    slack = -_ROUNDING * jnp.finfo(w.dtype).eps * vector_min(-jnp.abs(w))
    return r._replace(rows=rows, costs=costs, column=column, least=least, first=least, slack=slack)


def _pivot_once(r: _Run) -> _Run:
    n, j = r.cost.shape[0], r.column
    tree = _pivot(r.tree, r.costs[j], r.rows[j], j, n, r.pivots)
    reduced = (r.costs - tree.w[r.rows] + tree.w[n:]) + r.level_cost * (tree.level[n:] - tree.level[r.rows])
    least, column = first_min(reduced)
    return r._replace(tree=tree, column=column, least=least, pivots=r.pivots + 1)


def _pivot(t: Tree, cost: jax.Array, i: jax.Array, j: jax.Array, n: int, turn: jax.Array) -> Tree:
    """Let the pair (i, j) enter the tree; of edges that are emptied together, another leaves at each turn."""
    above_row, above_column = t.above[i], t.above[n + j]
    path = above_row ^ above_column
    on_path, loses = _bools(path), _bools(path & (above_column ^ t.row_below))
    amount, e = _first_min_from(jnp.where(loses, t.flow, jnp.inf), turn)
    flow = t.flow + jnp.where(on_path, jnp.where(loses, -amount, amount), 0)
    edge = _words(lax.iota(jnp.int32, flow.shape[0]) == e)
    row_is_cut = jnp.any((above_row & edge) > 0)
    word = lax.dynamic_slice_in_dim(t.above, e // 32, 1, axis=1)[:, 0]
    cut = ((word >> (e % 32).astype(jnp.uint32)) & 1) > 0
    w, level = t.w, t.level
    change, levels = cost - w[i] + w[n + j], level[n + j] - level[i]
    w = w + jnp.where(cut, jnp.where(row_is_cut, change, -change), 0)
    level = level + jnp.where(cut, jnp.where(row_is_cut, levels, -levels), 0)
    below = jnp.where(jnp.any((t.row_below & edge) > 0), t.rows[e], n + t.columns[e])
    turned = jnp.where(row_is_cut, above_row, above_column) ^ t.above[below]
    row_below = ((t.row_below ^ turned) & ~edge) | jnp.where(row_is_cut, edge, jnp.uint32(0))
    # In a branch, XLA updates the sets in place: else it copies them first, because `cut` is read from them.
    above = lax.cond(amount >= 0, _exchange, lambda above, *_: above, t.above, cut, path & ~edge)
    return Tree(above, row_below, put(t.rows, e, i), put(t.columns, e, j), put(flow, e, amount), w, level)


def _exchange(above: jax.Array, cut: jax.Array, path: jax.Array) -> jax.Array:
    return above ^ jnp.where(cut[:, None], path[None, :], jnp.uint32(0))


def _first_min_from(x: jax.Array, turn: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Minimum, and of the indices that have it the first from one that changes with each turn, so that none cycles."""
    size = x.shape[0]
    low = vector_min(x)
    order = (lax.iota(jnp.int32, size) + (turn * 37) % size) % size
    first = vector_min(jnp.where(x == low, order, size - 1))
    return low, (first - (turn * 37) % size) % size


def _bools(words: jax.Array) -> jax.Array:
    """Bits of `[W]` as `[32 W]` bool."""
    shifts = lax.broadcasted_iota(jnp.uint32, (words.shape[0], 32), 1)
    return (((words[:, None] >> shifts) & 1) > 0).reshape(-1)


def _words(bools: jax.Array) -> jax.Array:
    """`[..., 32 W]` bool as the bits of `[..., W]`."""
    bits = bools.reshape(*bools.shape[:-1], -1, 32).astype(jnp.uint32)
    return jnp.sum(bits << lax.broadcasted_iota(jnp.uint32, bits.shape, bits.ndim - 1), axis=-1, dtype=jnp.uint32)


class _Filling(NamedTuple):
    """The first tree in the making. Lines are rows, then columns, V in all; edge k hangs line k from line `parent[k]`.

    `offers` `[V, max(B0, B1)]` are the reduced costs of each line. Of the offers to an open line by open ones,
    `second` is the second least and `regret` what it exceeds the least by: infinite if it has to be found anew, minus
    infinity for a closed line. `closed` is infinite for closed lines, else 0; `left` is what a line has still to ship;
    `open_rows` and `open_columns` are how many are open.
    """

    offers: jax.Array
    second: jax.Array
    regret: jax.Array
    closed: jax.Array
    left: jax.Array
    flow: jax.Array
    parent: jax.Array
    open_rows: jax.Array
    open_columns: jax.Array


def _fill(cost: jax.Array, a: jax.Array, b: jax.Array, prices: jax.Array) -> Tree:
    """Ship as Vogel does: first from the line that loses most by its second best partner.

    Each time, a line that has nothing left is closed and hangs from its partner; others hang from the root at the end.
    """
    n, m = cost.shape
    nodes, edges, size = n + m, -(-(n + m) // 32) * 32, max(n, m)
    reduced = cost - prices[:n, None] + prices[None, n:]
    offers = jnp.concatenate([_widened(reduced, size), _widened(reduced.T, size)])
    left = jnp.concatenate([a, b])
    zero = 0 * left
    line = lax.iota(jnp.int32, nodes) + zero.astype(jnp.int32)
    closed = jnp.where(left > 0, zero, jnp.inf)
    second, regret = jnp.concatenate(
        [jnp.stack(_regrets(reduced.T + closed[n:, None])), jnp.stack(_regrets(reduced + closed[:n, None]))], axis=1
    )
    count_rows, count_columns = (jnp.sum(mass > 0, dtype=jnp.int32) for mass in (a, b))
    start = _Filling(
        offers,
        second,
        jnp.where(left > 0, regret, -jnp.inf),
        closed,
        left,
        zero,
        jnp.maximum(line, nodes),
        count_rows,
        count_columns,
    )
    s = while_loop(_has_open_lines, bind(_fill_once, n=n), start)
    hangs, is_row = s.parent == nodes, line < n
    rows = jnp.where(is_row, line, jnp.where(hangs, n, s.parent))
    columns = jnp.where(is_row, jnp.where(hangs, m, s.parent - n), line - n)
    edge = lax.broadcasted_iota(jnp.int32, (nodes, edges), 1)
    above = _along_paths(_words(edge == line[:, None]), s.parent, lax.bitwise_or)
    rest = (0, edges - nodes)
    rows, columns = jnp.pad(rows, rest, constant_values=n), jnp.pad(columns, rest, constant_values=m)
    flow = jnp.pad(jnp.where(hangs, s.left, s.flow), rest)
    tree = Tree(above, _words(jnp.pad(is_row, rest)), rows, columns, flow, left, left)
    w, level = _potentials(tree, cost, prices)
    return tree._replace(w=w, level=level)


def _widened(x: jax.Array, size: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, size - x.shape[1])), constant_values=jnp.inf)


def _regrets(offers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The second least offer of each column, and what it exceeds the least by."""
    low, best = first_minima(offers, axis=0)
    others = jnp.where(lax.broadcasted_iota(jnp.int32, offers.shape, 0) == best[None, :], jnp.inf, offers)
    second = jnp.min(others, axis=0)
    return second, _regret(low, second)


def _regret(low: jax.Array, second: jax.Array) -> jax.Array:
    """What a line loses by its second best partner: most of all if it has none."""
    return jnp.where(second < jnp.inf, second - low, jnp.finfo(low.dtype).max)


def _has_open_lines(s: _Filling) -> jax.Array:
    return (s.open_rows > 0) & (s.open_columns > 0)


def _fill_once(s: _Filling, n: int) -> _Filling:
    """Look at the offers to the line of the largest regret; if that was up to date, ship and close a line."""
    size, m = s.offers.shape[1], s.left.shape[0] - n
    top, q = first_max(s.regret)
    is_row, fresh = q < n, top < jnp.inf
    rows, columns = jnp.pad(s.closed[:n], (0, size - n)), jnp.pad(s.closed[n:], (0, size - m))
    offers = s.offers[q] + jnp.where(is_row, columns, rows)
    low, best = first_min(offers)
    second = vector_min(put(offers, best, jnp.inf))
    best = best + jnp.where(is_row, n, 0)
    i, j = jnp.where(is_row, q, best), jnp.where(is_row, best, q)
    mass, room = s.left[i], s.left[j]
    ships, empties = fresh & (low < jnp.inf), mass <= room
    child, parent = jnp.where(empties, i, j), jnp.where(empties, j, i)
    amount = jnp.where(ships, jnp.minimum(mass, room), 0)
    closes, hung = jnp.where(ships, child, jnp.where(fresh, q, -1)), jnp.where(ships, child, -1)
    lost = s.offers[jnp.maximum(closes, 0)]
    of_row = jnp.where(closes < n, jnp.inf, lost[:n])
    lost = jnp.concatenate([of_row, jnp.where((closes >= 0) & (closes < n), lost[:m], jnp.inf)])
    regret = put(s.regret, q, _regret(low, second))
    regret = jnp.where((lost <= s.second) & (lost < jnp.inf) & (regret > -jnp.inf), jnp.inf, regret)
    return _Filling(
        s.offers,
        put(s.second, q, second),
        put(regret, closes, -jnp.inf),
        put(s.closed, closes, jnp.inf),
        put(put(s.left, i, mass - amount), j, room - amount),
        put(s.flow, hung, amount),
        put(s.parent, hung, parent),
        s.open_rows - ((closes >= 0) & (closes < n)).astype(jnp.int32),
        s.open_columns - (closes >= n).astype(jnp.int32),
    )


def _along_paths(values: jax.Array, parent: jax.Array, join: Callable[..., jax.Array]) -> jax.Array:
    """Join the values `[V, ...]` of all nodes on the way to the root, whose number is V, by doubling the way."""
    root = parent.shape[0]
    pad = [(0, 1)] + [(0, 0)] * (values.ndim - 1)
    start = jnp.pad(values, pad), jnp.append(parent, root)
    return while_loop(_is_below_root, bind(_double, join=join), start)[0][:-1]


def _is_below_root(s: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.any(s[1] < s[1].shape[0] - 1)


def _double(s: tuple[jax.Array, jax.Array], join: Callable[..., jax.Array]) -> tuple[jax.Array, jax.Array]:
    values, parent = s
    return join(values, values[parent]), parent[parent]


def _potentials(t: Tree, cost: jax.Array, prices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Potentials that make the edges of the tree tight, and their levels, without what rounding did to earlier ones."""
    nodes, (n, m) = t.w.shape[0], cost.shape
    rows, columns, row_below = t.rows[:nodes], t.columns[:nodes], _bools(t.row_below)[:nodes]
    hangs = (rows == n) | (columns == m)
    child, parent = jnp.where(row_below, rows, n + columns), jnp.where(row_below, n + columns, rows)
    paid = cost[jnp.minimum(rows, n - 1), jnp.minimum(columns, m - 1)]
    sign = jnp.where(row_below, 1, -1).astype(cost.dtype)
    value = jnp.stack([jnp.where(hangs, prices, sign * paid), jnp.where(hangs, sign, 0)], axis=1)
    parent = jnp.zeros(nodes, jnp.int32).at[child].set(jnp.where(hangs, nodes, parent))
    value = jnp.zeros_like(value).at[child].set(value)
    value = _along_paths(value, parent, lax.add)
    return value[:, 0], value[:, 1]
