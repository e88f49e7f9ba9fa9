"""Exact one-to-one pairing of two batches: the cheapest assignment, found by shortest augmenting paths.

The solver starts with a few over-relaxed Sinkhorn iterations on a sharp kernel. Their potentials are so close to those
of the cheapest pairing that the searches need only a fifth to a twentieth of the steps. Then each row takes its best
column. Next come bids: a row that lost its column takes its best one and lowers its potential by the gap to the second
best. At last one Dijkstra search pairs each row that is still free. All searches are one flat `while_loop` whose step
scans one row, so under `vmap` a step is one batched scan. Time is O(B^3) at worst. The steps are sequential, a few
hundred to a few thousand for B = 512, and their number decides the time on a GPU or TPU. On a TPU all steps of a
float32 problem of at most 8,192 columns run in one kernel, which gives the same pairs; no TPU has run it yet.

A warm start takes given column potentials in place of those of the Sinkhorn iterations. They are raised as far as they
stay feasible, which also bounds them by the costs however far off they were, and dropped if the column minima prove
more.

References:
  Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems, 1987.
  Crouse, On implementing 2D rectangular assignment algorithms, 2016.
  Thibault et al., Overrelaxed Sinkhorn-Knopp algorithm for regularized optimal transport, 2021 (arXiv 1711.01851).

Method: exact optimal transport (assignment)
Experiment: ot_flow_matching, speed assignment
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_shape
from minibatch_jax._loops import bind, if_needed
from minibatch_jax._platforms import Completion
from minibatch_jax._vector import apart, first_minima, put, vector_min
from minibatch_jax.coupling._certificates import has_converged
from minibatch_jax.coupling._problem import allowed_pairs, column_prices, fixed_cost, is_price, kept_weights
from minibatch_jax.coupling._sinkhorn_loop import over_relaxed
from minibatch_jax.coupling.exact._paths import augment, nearest
from minibatch_jax.coupling.plans import Plan, Potentials, SolverReport, WarmStart, init_report, init_warm_start
from minibatch_jax.weights import weight_dtype, weight_transformation

_ITERATIONS = 20
_BLUR = 0.01  # epsilon of these iterations, relative to the mean cost after row reduction


class Assignment(NamedTuple):
    """A cheapest one-to-one pairing, and the potentials that prove it.

    Attributes:
      columns: `[B0]` int32, the column paired with each row; -1 where it has none.
      rows: `[B1]` int32, the row paired with each column; -1 where it has none.
      row_potentials: `[B0]`, u with `u_i + v_j <= cost_ij` on allowed pairs, equal on pairs of the assignment.
      column_potentials: `[B1]`, v, at most 0 if there are more columns than rows (u if there are more rows).
    """

    columns: jax.Array
    rows: jax.Array
    row_potentials: jax.Array
    column_potentials: jax.Array


def assignment(
    cost: jax.Array,
    *,
    where: jax.Array | None = None,
    maximize: bool = False,
    init: tuple[jax.Array, jax.Array] | Assignment | Plan | Potentials | None = None,
) -> Assignment:
    """Return the cheapest one-to-one pairing of rows with columns, or the dearest.

    As many rows are paired as the allowed pairs permit, and of these pairings the cheapest is found. With B0 < B1 every
    row gets a column, with B0 > B1 every column a row, as long as pairs are allowed. The result is a constant for the
    backward pass. For a stack of problems on a CPU `lax.map` is a little faster than `vmap`.

    Args:
      cost: `[B0, B1]`, floating point; a pair of non-finite cost (or beyond 1e19 in float32) is forbidden.
      where: `[B0, B1]` bool, which pairs are allowed; all by default. A row or column with none is left out.
      maximize: whether to find the dearest pairing in place of the cheapest, static; as many rows are paired.
      init: where to start: row and column potentials, as a pair `([B0], [B1])` or in the result of a similar problem.
        The solver reads those of the columns; entries that are not finite count as 0. A start near the result saves
        steps, any other changes only their number. A rectangular cost is then padded to a square one.

    Returns:
      `Assignment(columns, rows, row_potentials, column_potentials)`; for a square cost without forbidden pairs
      `columns` is a permutation. With `maximize` the potentials have `u_i + v_j >= cost_ij`.

    Raises:
      TypeError: if the cost is not floating point, `where` not bool, or `maximize` not a Python bool.
      ValueError: if the cost is not a matrix, is empty, or `where` or `init` has another shape.

    References:
      Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems, 1987.

    Examples:
      >>> assignment(jnp.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])).columns.tolist()
      [1, 0, 2]
    """
    if not isinstance(maximize, bool):
        raise TypeError(f"maximize is {maximize!r}, wanted a Python bool.")
    cost = fixed_cost(cost)
    allowed = allowed_pairs(cost, where, is_price)
    prices = column_prices(init, cost)
    if maximize:
        found = _solve(-cost, allowed, None if prices is None else -prices)
        return found._replace(row_potentials=-found.row_potentials, column_potentials=-found.column_potentials)
    return _solve(cost, allowed, prices)


def assignment_plan(cost: jax.Array, weights: jax.Array, *, maximize: bool = False) -> jax.Array:
    """Return the cheapest one-to-one plan on the allowed pairs, or the dearest, all its pairs of equal weight.

    Rows (or columns) that can be paired get the same mass each, whatever their weights. If equally many rows and
    columns are not zero, this is an optimal transport plan of uniform marginals. If not, the dearer items of the more
    numerous side are left out. For the marginals of the weights take `transport`.

    Args:
      cost: `[B0, B1]`, floating point.
      weights: `[B0, B1]`, at least 0; a pair of weight 0 or of non-finite cost is forbidden.
      maximize: whether to find the dearest plan in place of the cheapest, static.

    Returns:
      `[B0, B1]`, float32 (float64 if the weights are), with the mass of the weights on allowed pairs, at most one entry
      in a row and in a column.

    Raises:
      TypeError: if the cost is not floating point.
      ValueError: if the cost is not a matrix or the weights have another shape.

    References:
      Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems, 1987.

    Examples:
      >>> assignment_plan(jnp.array([[4.0, 1.0], [2.0, 0.0]]), jnp.ones((2, 2)) / 4).tolist()
      [[0.0, 0.5], [0.5, 0.0]]
    """
    return _plan(cost, weights, maximize, None)[0]


def couple_assignment(*, maximize: bool = False, warm_start: bool = False) -> optax.GradientTransformationExtraArgs:
    """Move all weight onto the cheapest one-to-one pairs, each of the same weight. Signal: `cost` [B0, B1].

    A pair of weight 0 or of non-finite cost is forbidden, and rows or columns without an allowed pair are left out, so
    a class mask or a selection may come before. The other values of the incoming weights only give the total mass: for
    unequal marginals take `couple_transport`. In batches of unequal size the dearer items of the larger one are left
    out.

    Args:
      maximize: whether to take the dearest pairs in place of the cheapest, static: for a signal that is a similarity.
      warm_start: whether each batch starts from the column potentials of the last one, static. It saves steps where
        column j stays the same item or moves little, not where batches are drawn anew.

    Returns:
      A transformation; its update takes the signal `cost` `[B0, B1]` and returns the plan as weights and a
      `SolverReport` as state. With S the smaller count of rows and of columns that have an allowed pair, its `error` is
      the fraction of S pairs that forbidden pairs do not permit, `iterations` counts the pairs, and `converged` is True
      if there are S. With `warm_start` the state is a `WarmStart`.

    Raises:
      TypeError: on update, if the cost is not floating point.
      ValueError: on update, if the cost does not have the shape of the weights.

    References:
      Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems, 1987.

    Examples:
      >>> tx = couple_assignment()
      >>> weights = jnp.ones((2, 2)) / 4
      >>> tx.update(weights, tx.init(weights), cost=jnp.array([[4.0, 1.0], [2.0, 0.0]]))[0].tolist()
      [[0.0, 0.5], [0.5, 0.0]]
    """

    def update(weights, state, params=None, *, cost, **extra_args):
        plan, prices, report = _plan(cost, weights, maximize, state.column_potentials if warm_start else None)
        return plan, WarmStart(prices, report) if warm_start else report

    return weight_transformation(init_warm_start if warm_start else init_report, update)


def _plan(
    cost: jax.Array, weights: jax.Array, maximize: bool, prices: jax.Array | None
) -> tuple[jax.Array, jax.Array, SolverReport]:
    """Return the plan of the cheapest pairing on the allowed pairs, its column prices and how the solver came out."""
    cost = fixed_cost(cost)
    check_shape("weights", weights, cost.shape)
    kept = kept_weights(weights.astype(weight_dtype(weights.dtype)), cost, is_price)
    allowed = kept > 0
    init = None if prices is None else (jnp.zeros(cost.shape[0], cost.dtype), prices)
    found = assignment(cost, where=allowed, maximize=maximize, init=init)
    paired = found.columns[:, None] == lax.broadcasted_iota(jnp.int32, cost.shape, 1)
    mass, count = jnp.sum(kept), jnp.sum(found.columns >= 0, dtype=jnp.int32)
    wanted = jnp.minimum(*(jnp.sum(jnp.any(allowed, axis=axis), dtype=jnp.int32) for axis in (0, 1)))
    error = (wanted - count).astype(mass.dtype) / jnp.maximum(wanted, 1).astype(mass.dtype)
    converged = has_converged(error, 0, found.row_potentials, found.column_potentials)
    plan = jnp.where(paired, mass / jnp.maximum(count, 1).astype(mass.dtype), 0)
    return plan, found.column_potentials, SolverReport(lax.stop_gradient(error), count, converged)


def _solve(cost: jax.Array, allowed: jax.Array, prices: jax.Array | None) -> Assignment:
    """Turn the problem so that it has at most as many rows as columns, and the result back."""
    if cost.shape[0] <= cost.shape[1]:
        return _assign(cost, allowed) if prices is None else _assign_from(cost, allowed, prices)
    if prices is None:
        found = _assign(cost.T, allowed.T)
    else:
        low = jnp.min(jnp.where(allowed, cost - prices[None, :], jnp.inf), axis=1)
        found = _assign_from(cost.T, allowed.T, jnp.where(jnp.isfinite(low), low, 0))
    return Assignment(found.rows, found.columns, found.column_potentials, found.row_potentials)


class _Matching(NamedTuple):
    """Column of each row, row of each column (-1 for none), and the column potentials."""

    columns: jax.Array
    rows: jax.Array
    v: jax.Array


class _Bids(NamedTuple):
    """Bids in progress: row `i` bids next, `last` the last row that was free, `bids` the number of bids."""

    i: jax.Array
    last: jax.Array
    bids: jax.Array
    reduced: jax.Array
    active: jax.Array
    matching: _Matching


class _Search(NamedTuple):
    """A Dijkstra search: row `i` at distance `h` from the free row `root` is scanned next.

    `dist` holds the distance of columns not scanned (infinity on scanned ones), `fixed` that of scanned columns
    (infinity on others), `pred` the row before a column, `w` is v with -infinity on scanned columns.
    """

    root: jax.Array
    i: jax.Array
    h: jax.Array
    dist: jax.Array
    pred: jax.Array
    fixed: jax.Array
    w: jax.Array
    reduced: jax.Array
    active: jax.Array
    matching: _Matching


def _assign_from(cost: jax.Array, allowed: jax.Array, v: jax.Array) -> Assignment:
    """Solve with at most as many rows as columns, from column potentials.

    These prove nothing about a column that stays free unless its price is the highest. So idle rows, to which all
    columns cost the same, make the problem square: all columns get paired. A row without an allowed pair is idle too.
    """
    n, m = cost.shape
    idle = jnp.pad(~jnp.any(allowed, axis=1), (0, m - n), constant_values=True)
    least = jnp.min(cost, initial=jnp.inf, where=allowed)
    least = jnp.where(jnp.isfinite(least), least, 0)
    square = jnp.where(idle[:, None], least, jnp.pad(cost, ((0, m - n), (0, 0))))
    highest = jnp.sort(v)[jnp.minimum(m - jnp.sum(idle, dtype=jnp.int32), m - 1)]
    v = jnp.minimum(v - highest, 0)
    found = _assign(square, jnp.pad(allowed, ((0, m - n), (0, 0))) | idle[:, None], v, idle)
    columns = jnp.where(idle, -1, found.columns)
    rows = jnp.where((found.rows < 0) | idle[found.rows], -1, found.rows)
    top = jnp.max(found.column_potentials)
    u = jnp.where(idle, 0, found.row_potentials + top)
    v = jnp.where(rows < 0, 0, found.column_potentials - top)
    return Assignment(columns[:n], rows, u[:n], v)


def _assign(
    cost: jax.Array, allowed: jax.Array, prices: jax.Array | None = None, idle: jax.Array | None = None
) -> Assignment:
    """Solve with at most as many rows as columns; a forbidden pair costs more than any sum of allowed ones."""
    n, m = cost.shape
    low, active, reduced = _reduce(cost, allowed)
    potentials = _no_potentials(reduced, allowed)
    if prices is not None:
        potentials = _tightened(reduced, allowed, prices)
    elif n == m:
        potentials = lax.cond(jnp.all(active), _potentials, _no_potentials, reduced, allowed)
    matching = _start(reduced, active, potentials)
    if idle is not None:
        matching = _fill(matching, idle)
    columns, _, v = _paired(reduced, active, matching)
    index = lax.iota(jnp.int32, n)
    u = jnp.where(active, low + reduced[index, columns] - v[columns], 0)
    columns = jnp.where((columns >= 0) & active & allowed[index, columns], columns, -1)
    rows = jnp.full(m, -1, jnp.int32).at[jnp.where(columns < 0, m, columns)].set(index, mode="drop")
    return Assignment(columns, rows, u, v)


def _reduce(cost: jax.Array, allowed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the least cost of each row, which rows have an allowed pair, and the costs beyond these least ones."""
    priced = jnp.where(allowed, cost, jnp.inf)
    low = jnp.min(priced, axis=1)
    active = low < jnp.inf
    least = vector_min(low)
    least = jnp.where(least < jnp.inf, least, 0)
    low = jnp.where(active, low, least)
    top = jnp.max(priced)
    top = if_needed(~(top < jnp.inf), bind(_dearest, cost, allowed), top)
    reach = jnp.maximum(top - least, 0)
    forbidden = jnp.where(reach > 0, (cost.shape[0] + 1) * reach, 1) - (low - least)
    return low, active, jnp.where(priced < jnp.inf, priced - low[:, None], forbidden[:, None])


def _dearest(cost: jax.Array, allowed: jax.Array, top: jax.Array) -> jax.Array:
    return jnp.max(cost, initial=-jnp.inf, where=allowed)


def _no_potentials(reduced: jax.Array, allowed: jax.Array) -> jax.Array:
    return 0 * reduced[0]


def _tightened(reduced: jax.Array, allowed: jax.Array, v: jax.Array) -> jax.Array:
    """Raise potentials of at most 0, of which one is 0, as far as they stay feasible; start afresh if they are poor.

    However far off they were, the result is then no larger than the costs.
    """
    u = jnp.min(reduced - v[None, :], axis=1)
    v = jnp.maximum(jnp.min(reduced - u[:, None], axis=0), v)
    lowest = jnp.min(reduced, axis=0)
    slack = jnp.min(reduced - lowest[None, :], axis=1)
    poor = ~(jnp.sum(u) + jnp.sum(v) > jnp.sum(slack) + jnp.sum(lowest))
    return lax.cond(poor, _afresh, _unchanged, reduced, allowed, v)


def _afresh(reduced: jax.Array, allowed: jax.Array, v: jax.Array) -> jax.Array:
    return _potentials(reduced, allowed)


def _unchanged(reduced: jax.Array, allowed: jax.Array, v: jax.Array) -> jax.Array:
    return v


def _potentials(reduced: jax.Array, allowed: jax.Array) -> jax.Array:
    """Column potentials if all get paired: minima, or those of the blurred problem if their dual value is higher."""
    lowest = apart(jnp.min(reduced, axis=0))
    slack = apart(jnp.min(reduced - lowest[None, :], axis=1))
    mean = jnp.sum(jnp.where(allowed, reduced, 0)) / jnp.maximum(jnp.sum(allowed.astype(reduced.dtype)), 1)
    epsilon = jnp.where(mean > 0, _BLUR * mean, 1)
    kernel = jnp.exp((slack[:, None] + lowest[None, :] - reduced) / epsilon)
    _, columns = over_relaxed(kernel, 0 * slack, 0 * lowest, _ITERATIONS)  # all masses are 1
    blurred = lowest + epsilon * columns
    gain = jnp.sum(jnp.min(reduced - blurred[None, :], axis=1) - slack) + jnp.sum(blurred - lowest)
    return jnp.where(gain > 0, blurred, lowest)


def _start(reduced: jax.Array, active: jax.Array, v: jax.Array) -> _Matching:
    """Let each row take its best column; the first row wins."""
    n, m = reduced.shape
    _, wanted = first_minima(reduced - v[None, :], axis=1)
    index = lax.iota(jnp.int32, n)
    first = jnp.full(m, n, jnp.int32).at[jnp.where(active, wanted, m)].min(index, mode="drop")
    won = active & (first[wanted] == index)
    return _Matching(jnp.where(won, wanted, -1), jnp.where(first < n, first, -1), v)


def _fill(matching: _Matching, idle: jax.Array) -> _Matching:
    """Let idle rows take the free columns of the highest price, which are their best ones, in one step."""
    columns, rows, v = matching
    size = v.shape[0]
    index = lax.iota(jnp.int32, size)
    free = (rows < 0) & (v == jnp.max(v))
    waiting = idle & (columns < 0)
    place, turn = (jnp.cumsum(x.astype(jnp.int32)) - 1 for x in (free, waiting))
    by_place = jnp.full(size, size, jnp.int32).at[jnp.where(free, place, size)].set(index, mode="drop")
    taken = jnp.where(waiting, by_place[turn], size)
    return _Matching(jnp.where(taken < size, taken, columns), rows.at[taken].set(index, mode="drop"), v)


def _pair_in_loops(reduced: jax.Array, active: jax.Array, *matching: jax.Array) -> _Matching:
    return _search(reduced, active, _bid(reduced, active, _Matching(*matching)))


def _pair_in_kernel(reduced: jax.Array, active: jax.Array, *matching: jax.Array) -> _Matching:
    from minibatch_jax.coupling.exact._assignment_kernel import pair_in_kernel

    return _Matching(*pair_in_kernel(reduced, active, *matching))


def _pair_stack_in_kernel(reduced: jax.Array, active: jax.Array, *matching: jax.Array) -> _Matching:
    from minibatch_jax.coupling.exact._assignment_stacks import pair_stack

    return _Matching(*pair_stack(reduced, active, *matching))


_pair = Completion(3, _pair_in_loops, _pair_in_kernel, _pair_stack_in_kernel)
_LARGEST_KERNEL = 8192  # columns, and rows


def _paired(reduced: jax.Array, active: jax.Array, matching: _Matching) -> _Matching:
    """Pair all active rows: in one kernel on a TPU, in loops elsewhere or if the costs are too many."""
    if reduced.dtype != jnp.float32 or not 1 < reduced.shape[1] <= _LARGEST_KERNEL:
        return _pair_in_loops(reduced, active, *matching)
    return _Matching(*_pair(reduced, active, *matching))


def _bid(reduced: jax.Array, active: jax.Array, matching: _Matching) -> _Matching:
    """Let free rows take columns from others, at most 2n times; the robbed row bids next."""
    if reduced.shape[1] == 1:
        return matching
    zero = 0 * matching.columns[0]
    start = _Bids(_next_free(matching.columns, active, zero - 1), zero - 1, zero, reduced, active, matching)
    return lax.while_loop(_is_bidding, _bid_once, start).matching


def _is_bidding(s: _Bids) -> jax.Array:
    n = s.active.shape[0]
    return (s.i < n) & (s.bids < 2 * n)


def _bid_once(s: _Bids) -> _Bids:
    columns, rows, v = s.matching
    slack = s.reduced[s.i] - v
    best, j = nearest(slack, rows)
    gap = vector_min(put(slack, j, jnp.inf)) - best
    loser = rows[j]
    columns = put(put(columns, loser, -1), s.i, j)
    last = jnp.maximum(s.last, s.i)
    robbed = (loser >= 0) & (gap > 0)
    i = jnp.where(robbed, loser, _next_free(columns, s.active, last))
    matching = _Matching(columns, put(rows, j, s.i), put(v, j, v[j] - gap))
    return s._replace(i=i, last=last, bids=s.bids + 1, matching=matching)


def _search(reduced: jax.Array, active: jax.Array, matching: _Matching) -> _Matching:
    """Pair every free row along a shortest augmenting path."""
    root = _next_free(matching.columns, active, jnp.int32(-1))
    start = _begin(root, 0 * matching.rows, reduced, active, matching)
    return lax.while_loop(_is_searching, _scan, start).matching


def _is_searching(s: _Search) -> jax.Array:
    return s.root < s.active.shape[0]


def _begin(root: jax.Array, pred: jax.Array, reduced: jax.Array, active: jax.Array, matching: _Matching) -> _Search:
    zeros = 0 * matching.v
    far = zeros + jnp.inf
    i = jnp.minimum(root, active.shape[0] - 1)
    return _Search(root, i, zeros[0], far, pred, far, matching.v, reduced, active, matching)


def _scan(s: _Search) -> _Search:
    """Scan the row that is next, then go on to the owner of the nearest column, or pair if it has none."""
    columns, rows, v = s.matching
    reached = (s.reduced[s.i] - s.w) + s.h
    pred = jnp.where(reached < s.dist, s.i, s.pred)
    dist = jnp.minimum(s.dist, reached)
    low, j = nearest(dist, rows)
    owner = rows[j]

    def end():
        sink = jnp.where((owner < 0) & _is_searching(s), j, -1)
        paired = augment(sink, pred, columns, rows)
        matching = _Matching(*paired, v + jnp.minimum(s.fixed - low, 0))
        return _begin(_next_free(paired[0], s.active, s.root), pred, s.reduced, s.active, matching)

    def extend():
        h = low - (s.reduced[owner, j] - v[j])
        dist_left, fixed, w = put(dist, j, jnp.inf), put(s.fixed, j, low), put(s.w, j, -jnp.inf)
        return s._replace(i=owner, h=h, dist=dist_left, pred=pred, fixed=fixed, w=w)

    return lax.cond(owner < 0, end, extend)


def _next_free(columns: jax.Array, active: jax.Array, after: jax.Array) -> jax.Array:
    n = columns.shape[0]
    index = lax.iota(jnp.int32, n)
    return vector_min(jnp.where((columns < 0) & active & (index > after), index, n))
