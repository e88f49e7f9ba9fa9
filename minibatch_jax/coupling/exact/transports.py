"""Exact optimal transport of unequal masses: the cheapest plan with given row and column sums.

Successive shortest paths with capacities. From a row that has mass left, a Dijkstra search over rows and columns (from
a row to any column, from a column back to the rows that fill it) finds the cheapest way to a column with room; as much
mass as fits goes along it. Each path empties a row, fills a column or clears a pair, so the plan has few pairs. The
first potentials are those of a Sinkhorn plan, which keeps the searches short. All searches are one flat `while_loop`
whose step scans one row or one column. The steps are sequential, so the solver is fastest on a CPU.

References:
  Ahuja, Magnanti and Orlin, Network flows, 1993, section 9.7.
  Peyre and Cuturi, Computational optimal transport, 2019 (arXiv 1803.00567), section 3.

Method: exact optimal transport of unequal masses
Experiment: speed assignment
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._vector import first_min, put
from minibatch_jax.coupling._certificates import has_converged, linear_value
from minibatch_jax.coupling._problem import (
    allowed_pairs,
    column_prices,
    fixed_cost,
    is_price,
    make_problem,
    marginals_of,
    masses,
)
from minibatch_jax.coupling._sinkhorn_loop import log_where, scale_to_marginals
from minibatch_jax.coupling.plans import Plan, Potentials, WarmStart, init_report, init_warm_start, report_of
from minibatch_jax.weights import weight_transformation

_PATHS_PER_LINE = 50
_EPSILON = 0.01
_ITERATIONS = 100
_FARTHEST = 16  # potentials that are given may be this many times the largest cost: more would cost precision


def transport(
    cost: jax.Array,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    *,
    where: jax.Array | None = None,
    init: tuple[jax.Array, jax.Array] | Plan | Potentials | None = None,
) -> Plan:
    """Return the plan with marginals a, b that minimizes `sum(plan * cost)`: `ot.emd` inside jit.

    If forbidden pairs leave no plan of all the mass, as much is moved as they permit, not always in the cheapest way.
    The same holds for a traced a and b of unequal mass. The square uniform case is faster by `assignment`.

    Args:
      cost: `[B0, B1]`, floating point; a pair of non-finite cost (or beyond 1e19 in float32) is forbidden.
      a: `[B0]`, mass of each row, at least 0; uniform with sum 1 by default.
      b: `[B1]`, mass of each column, at least 0; uniform with sum 1 by default.
      where: `[B0, B1]` bool, which pairs are allowed; all by default.
      init: where to start: row and column potentials, as a pair `([B0], [B1])` or in the result of a similar problem.
        The solver reads those of the columns; entries that are not finite count as 0. Potentials near the result take
        the place of the Sinkhorn iterations of a start without them, and shorten the searches.

    Returns:
      `Plan(matrix, row_potentials, column_potentials, value, error, iterations, converged)`. The rows of `matrix` sum
      to a and its columns to b, up to rounding. The row potentials u and column potentials v prove that it is the
      cheapest: `u_i + v_j <= cost_ij` on allowed pairs, equal where the plan has mass. `value` has a gradient: the plan
      for the cost and u, v for the marginals, up to a constant (envelope theorem). It is piecewise linear in the cost
      and in the marginals, so its second derivatives in one of them are 0; those in both are how the plan changes with
      the marginals, NaN where it has fewer than B0 + B1 - 1 pairs (as with uniform ones). `error` is the fraction
      of the larger mass that was not shipped, exactly 0 if that is no more than rounding; `converged` wants 0.
      `iterations` counts the paths along which mass was shipped.

    Raises:
      TypeError: if the cost or a marginal is not floating point, or `where` not bool.
      ValueError: if shapes do not match, or concrete marginals are negative, not finite or of unequal mass.

    References:
      Ahuja, Magnanti and Orlin, Network flows, 1993, section 9.7.

    Examples:
      >>> transport(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5])).matrix.tolist()
      [[0.5, 0.25], [0.0, 0.25]]
    """
    live, cost = cost, fixed_cost(cost)
    allowed = allowed_pairs(cost, where, is_price)
    a, b = masses(cost, a, b, equal=True)
    flow = _solve(cost, lax.stop_gradient(a), lax.stop_gradient(b), allowed, column_prices(init, cost))
    matrix = flow.shipped.T
    live = jnp.where(matrix > 0, live.astype(cost.dtype), 0)
    value = jnp.sum(matrix * lax.stop_gradient(live))
    value = linear_value(value, live, a, b, matrix, flow.u, flow.v)
    error = lax.stop_gradient(_unshipped(matrix, a, b))
    return Plan(matrix, flow.u, flow.v, value, error, flow.paths, has_converged(error, 0, flow.u, flow.v))


def couple_transport(*, warm_start: bool = False) -> optax.GradientTransformationExtraArgs:
    """Move the weights onto the cheapest plan that keeps the mass of every row and column. Signal: `cost` [B0, B1].

    The row and column sums of the incoming weights are the marginals, whatever they are: `couple_assignment` is for
    equal masses only. A pair of weight 0 or of non-finite cost is forbidden and its weight is lost.

    Args:
      warm_start: whether each batch starts from the column potentials of the last one, static. It saves steps where
        column j stays the same item or moves little, not where batches are drawn anew.

    Returns:
      A transformation; its update takes the signal `cost` `[B0, B1]` and returns the plan as weights and a
      `SolverReport` as state: whether the solver of this batch converged, and its error. With `warm_start` the state is
      a `WarmStart`.

    Raises:
      TypeError: on update, if the cost is not floating point.
      ValueError: on update, if the cost does not have the shape of the weights.

    References:
      Ahuja, Magnanti and Orlin, Network flows, 1993, section 9.7.

    Examples:
      >>> tx = couple_transport()
      >>> weights = jnp.array([[0.5, 0.25], [0.125, 0.125]])
      >>> tx.update(weights, tx.init(weights), cost=jnp.array([[0.0, 1.0], [2.0, 0.0]]))[0].tolist()
      [[0.625, 0.125], [0.0, 0.25]]
    """

    def update(weights, state, params=None, *, cost, **extra_args):
        cost = fixed_cost(cost).astype(weights.dtype)
        allowed, a, b = marginals_of(weights, cost, is_price)
        plan = transport(cost, a, b, where=allowed, init=(a, state.column_potentials) if warm_start else None)
        report = report_of(plan)
        return plan.matrix, WarmStart(plan.column_potentials, report) if warm_start else report

    return weight_transformation(init_warm_start if warm_start else init_report, update)


class _Flow(NamedTuple):
    """What is shipped so far `[B1, B0]`, what is left of rows and columns, and potentials that prove it cheapest."""

    shipped: jax.Array
    supply: jax.Array
    demand: jax.Array
    u: jax.Array
    v: jax.Array
    paths: jax.Array


class _Search(NamedTuple):
    """A Dijkstra search from row `root`.

    `row_dist`, `column_dist` are the distances of what is reached and not yet scanned, infinity elsewhere; `row_fixed`,
    `column_fixed` those of what is scanned, infinity elsewhere; `into_row`, `into_column` are what comes before on the
    path, -1 before the root.
    """

    root: jax.Array
    row_dist: jax.Array
    column_dist: jax.Array
    row_fixed: jax.Array
    column_fixed: jax.Array
    into_row: jax.Array
    into_column: jax.Array


class _Run(NamedTuple):
    """The loop: all it needs travels in its carry, so that eager calls compile only once."""

    cost: jax.Array
    flow: _Flow
    search: _Search


def _solve(cost: jax.Array, a: jax.Array, b: jax.Array, allowed: jax.Array, prices: jax.Array | None) -> _Flow:
    low = jnp.min(cost, initial=jnp.inf, where=allowed)
    low = jnp.where(jnp.isfinite(low), low, 0)
    cost = jnp.where(allowed, cost - low, jnp.inf)
    flow = _empty(cost, a, b, prices)
    flow = lax.while_loop(_is_short, _step, _Run(cost, flow, _begin(flow.supply, flow.v))).flow
    return flow._replace(u=flow.u + low)


def _unshipped(matrix: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Fraction of the larger mass that is not in the plan; exactly 0 if that is no more than rounding."""
    asked = jnp.maximum(jnp.sum(a), jnp.sum(b))
    missing = (asked - jnp.sum(matrix)) / jnp.where(asked > 0, asked, 1)
    return jnp.where(missing <= 4 * sum(matrix.shape) * jnp.finfo(matrix.dtype).eps, 0, missing)


def _empty(cost: jax.Array, a: jax.Array, b: jax.Array, prices: jax.Array | None) -> _Flow:
    """Start with nothing shipped and with nearly optimal potentials, made feasible."""
    v = _blurred(cost, a, b, None) if prices is None else _tightened(cost, a, b, prices)
    u = _row_prices(cost, v)
    zero = 0 * (u[0] + v[0])
    supply, demand = (jnp.where(mass > 0, mass, 0) + zero for mass in (a, b))
    shipped = jnp.zeros(cost.shape[::-1], cost.dtype) + zero
    return _Flow(shipped, supply, demand, u, v, zero.astype(jnp.int32))


def _blurred(cost: jax.Array, a: jax.Array, b: jax.Array, _: jax.Array | None) -> jax.Array:
    """Column potentials of a Sinkhorn plan, made feasible."""
    problem = make_problem(cost, a, b, _EPSILON, "mean", None)
    start = scale_to_marginals(problem, None, _ITERATIONS)
    v = start.g + problem.epsilon * log_where(start.scaling.v, problem.b)
    return _column_prices(cost, jnp.min(jnp.where(problem.b > 0, problem.cost - v[None, :], jnp.inf), axis=1))


def _tightened(cost: jax.Array, a: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
    """Make given column potentials feasible and as high as they can be; start afresh if they are poor or far off."""
    v = v - jnp.max(v, initial=-jnp.inf, where=b > 0)
    v = _column_prices(cost, jnp.min(jnp.where(b > 0, cost - v[None, :], jnp.inf), axis=1))
    u, least = _row_prices(cost, v), _column_prices(cost, jnp.zeros_like(cost[:, 0]))
    proven = jnp.sum(a * u) + jnp.sum(b * v)
    plain = jnp.sum(a * _row_prices(cost, least)) + jnp.sum(b * least)
    reach = jnp.max(cost, initial=0, where=cost < jnp.inf)
    near = jnp.maximum(jnp.max(jnp.abs(u)), jnp.max(jnp.abs(v))) <= _FARTHEST * reach
    return lax.cond(near & (proven > plain), _unchanged, _blurred, cost, a, b, v)


def _unchanged(cost: jax.Array, a: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
    return v


def _row_prices(cost: jax.Array, v: jax.Array) -> jax.Array:
    u = jnp.min(cost - v[None, :], axis=1)
    return jnp.where(jnp.isfinite(u), u, 0)


def _column_prices(cost: jax.Array, u: jax.Array) -> jax.Array:
    u = jnp.where(jnp.isfinite(u), u, 0)
    v = jnp.min(cost - u[:, None], axis=0)
    return jnp.where(jnp.isfinite(v), v, 0)


def _is_short(r: _Run) -> jax.Array:
    flow = r.flow
    room = jnp.any(flow.supply > 0) & jnp.any(flow.demand > 0)
    return room & (flow.paths < _PATHS_PER_LINE * sum(r.cost.shape))


def _begin(supply: jax.Array, v: jax.Array) -> _Search:
    """Start from the first row that has mass left."""
    n = supply.shape[0]
    index = lax.iota(jnp.int32, n)
    root = jnp.min(jnp.where(supply > 0, index, n - 1))
    row, column = 0 * supply + jnp.inf, 0 * v + jnp.inf
    into_row, into_column = (0 * supply - 1).astype(jnp.int32), (0 * v).astype(jnp.int32)
    return _Search(root, jnp.where(index == root, 0, row), column, row, column, into_row, into_column)


def _step(r: _Run) -> _Run:
    """Scan the nearest row or column; if that is a column with room, or there is none, end the search."""
    s, flow = r.search, r.flow
    row, i = first_min(s.row_dist)
    column, j = first_min(s.column_dist)
    lost = jnp.isinf(jnp.minimum(row, column))
    found = (column < row) & (flow.demand[j] > 0) & _is_short(r)
    flow = _end(s, flow, column, jnp.where(found, j, -1), lost)
    search = lax.cond(
        found | lost,
        lambda: _begin(flow.supply, flow.v),
        lambda: lax.cond(column < row, lambda: _scan_column(s, flow, column, j), lambda: _scan_row(r, row, i)),
    )
    return r._replace(flow=flow, search=search)


def _scan_row(r: _Run, dist: jax.Array, i: jax.Array) -> _Search:
    """Reach every column from row i."""
    s, flow = r.search, r.flow
    reached = dist + jnp.maximum(r.cost[i] - flow.u[i] - flow.v, 0)
    better = (reached < s.column_dist) & jnp.isinf(s.column_fixed)
    return s._replace(
        row_dist=put(s.row_dist, i, jnp.inf),
        row_fixed=put(s.row_fixed, i, dist),
        column_dist=jnp.where(better, reached, s.column_dist),
        into_column=jnp.where(better, i, s.into_column),
    )


def _scan_column(s: _Search, flow: _Flow, dist: jax.Array, j: jax.Array) -> _Search:
    """Reach the rows that fill column j; the way back along a pair costs nothing."""
    better = (flow.shipped[j] > 0) & jnp.isinf(s.row_fixed) & (dist < s.row_dist)
    return s._replace(
        column_dist=put(s.column_dist, j, jnp.inf),
        column_fixed=put(s.column_fixed, j, dist),
        row_dist=jnp.where(better, dist, s.row_dist),
        into_row=jnp.where(better, j, s.into_row),
    )


def _end(s: _Search, flow: _Flow, dist: jax.Array, j: jax.Array, lost: jax.Array) -> _Flow:
    """Ship along the path to column j unless j is -1; give up what is left of the root if no column was found."""
    found = j >= 0
    amount = _bottleneck(s, flow, j)
    left = jnp.where(lost, 0, flow.supply[s.root] - jnp.where(found, amount, 0))
    top = jnp.where(found, dist, -jnp.inf)
    return _Flow(
        _ship(s, flow.shipped, j, amount),
        put(flow.supply, s.root, left),
        put(flow.demand, j, flow.demand[j] - amount),
        flow.u + jnp.maximum(top - s.row_fixed, 0),
        flow.v - jnp.maximum(top - s.column_fixed, 0),
        flow.paths + found.astype(jnp.int32),
    )


def _bottleneck(s: _Search, flow: _Flow, j: jax.Array) -> jax.Array:
    """The most that fits along the path from the root to column j."""

    def back(state):
        j, amount = state
        i = s.into_column[j]
        before = s.into_row[i]
        return before, jnp.minimum(amount, jnp.where(before >= 0, flow.shipped[before, i], jnp.inf))

    start = j, jnp.minimum(flow.demand[j], flow.supply[s.root])
    return lax.while_loop(lambda state: state[0] >= 0, back, start)[1]


def _ship(s: _Search, shipped: jax.Array, j: jax.Array, amount: jax.Array) -> jax.Array:
    """Add an amount along the path to column j and take it from the pairs on the way back."""

    def back(state):
        j, shipped = state
        i = s.into_column[j]
        before = s.into_row[i]
        shipped = shipped.at[j, i].add(amount)
        return before, shipped.at[jnp.where(before >= 0, before, shipped.shape[0]), i].add(-amount, mode="drop")

    return lax.while_loop(lambda state: state[0] >= 0, back, (j, shipped))[1]
