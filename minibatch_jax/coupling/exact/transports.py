"""Exact optimal transport of unequal masses: the cheapest plan with given row and column sums.

The network simplex method. A few over-relaxed Sinkhorn iterations on a sharp kernel give potentials near the best ones.
Vogel's rule on the costs that these reduce makes the first tree: the row or column that would lose most by its second
best partner ships first. Pivots do the rest. They are sequential, so the solver is fastest on a CPU.

References:
  Ahuja, Magnanti and Orlin, Network flows, 1993, chapter 11.
  Peyre and Cuturi, Computational optimal transport, 2019 (arXiv 1803.00567), section 3.

Method: exact optimal transport of unequal masses
Experiment: speed assignment
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax.coupling._certificates import has_converged, linear_value
from minibatch_jax.coupling._problem import allowed_pairs, column_prices, fixed_cost, is_price, marginals_of, masses
from minibatch_jax.coupling._sinkhorn_loop import FARTHEST_LOG, log_where, over_relaxed
from minibatch_jax.coupling.exact._network_simplex import solve
from minibatch_jax.coupling.plans import Plan, Potentials, WarmStart, init_report, init_warm_start, report_of
from minibatch_jax.devices import varying_like
from minibatch_jax.weights import weight_transformation

_EPSILON = 0.01
_ITERATIONS = 20
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
        the place of the Sinkhorn iterations of a start without them, and save pivots.

    Returns:
      `Plan(matrix, row_potentials, column_potentials, value, error, iterations, converged)`. The rows of `matrix` sum
      to a and its columns to b, up to rounding. The row potentials u and column potentials v prove that it is the
      cheapest: `u_i + v_j <= cost_ij` on allowed pairs, equal where the plan has mass. `value` has a gradient: the plan
      for the cost and u, v for the marginals, up to a constant (envelope theorem). It is piecewise linear in the cost
      and in the marginals, so its second derivatives in one of them are 0; those in both are how the plan changes with
      the marginals, NaN where it has fewer than B0 + B1 - 1 pairs (as with uniform ones). `error` is the fraction
      of the larger mass that was not shipped, exactly 0 if that is no more than rounding; `converged` wants 0.
      `iterations` counts the pivots; if their limit of 50 for each row and column ends them, the plan keeps its
      marginals but may not be the cheapest, and `converged` is False.

    Raises:
      TypeError: if the cost or a marginal is not floating point, or `where` not bool.
      ValueError: if shapes do not match, or concrete marginals are negative, not finite or of unequal mass.

    References:
      Ahuja, Magnanti and Orlin, Network flows, 1993, chapter 11.

    Examples:
      >>> transport(jnp.array([[0.0, 1.0], [2.0, 0.0]]), jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5])).matrix.tolist()
      [[0.5, 0.25], [0.0, 0.25]]
    """
    live, cost = cost, fixed_cost(cost)
    allowed = allowed_pairs(cost, where, is_price)
    a, b = masses(cost, a, b, equal=True)
    matrix, u, v, pivots, best = _solve(
        cost, lax.stop_gradient(a), lax.stop_gradient(b), allowed, column_prices(init, cost)
    )
    live = jnp.where(matrix > 0, live.astype(cost.dtype), 0)
    value = jnp.sum(matrix * lax.stop_gradient(live))
    value = linear_value(value, live, a, b, matrix, u, v)
    error = lax.stop_gradient(_unshipped(matrix, a, b))
    return Plan(matrix, u, v, value, error, pivots, has_converged(error, 0, u, v) & best)


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
      Ahuja, Magnanti and Orlin, Network flows, 1993, chapter 11.

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


class _Solution(NamedTuple):
    """The plan, its potentials, how many pivots it took and whether they reached the optimum."""

    matrix: jax.Array
    u: jax.Array
    v: jax.Array
    pivots: jax.Array
    best: jax.Array


def _solve(cost: jax.Array, a: jax.Array, b: jax.Array, allowed: jax.Array, prices: jax.Array | None) -> _Solution:
    low = jnp.min(cost, initial=jnp.inf, where=allowed)
    low = jnp.where(jnp.isfinite(low), low, 0)
    cost = jnp.where(allowed, cost - low, jnp.inf)
    a, b = (jnp.where((mass > 0) & (mass < jnp.inf), mass, 0) for mass in (a, b))
    for x in (cost, a, b, cost if prices is None else prices):  # loops of `shard_map` want them to vary alike
        cost, a, b = (varying_like(y, jax.typeof(x)) for y in (cost, a, b))
    shipping = jnp.where((a > 0)[:, None] & (b > 0)[None, :], cost, jnp.inf)
    v = _blurred(shipping, a, b, None) if prices is None else _tightened(shipping, a, b, prices)
    tree, pivots, best = solve(shipping, a, b, _row_prices(shipping, v), v)
    matrix = jnp.zeros_like(cost).at[tree.rows, tree.columns].add(tree.flow, mode="drop")
    n = cost.shape[0]
    w = _on_one_level(shipping, tree.w, tree.level)
    v = jnp.where(b > 0, -w[n:], _column_prices(jnp.where((a > 0)[:, None], cost, jnp.inf), w[:n]))
    return _Solution(matrix, _row_prices(cost, v) + low, v, pivots, best)


def _unshipped(matrix: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Fraction of the larger mass that is not in the plan; exactly 0 if that is no more than rounding."""
    asked = jnp.maximum(jnp.sum(a), jnp.sum(b))
    missing = (asked - jnp.sum(matrix)) / jnp.where(asked > 0, asked, 1)
    return jnp.where(missing <= 4 * sum(matrix.shape) * jnp.finfo(matrix.dtype).eps, 0, missing)


def _blurred(cost: jax.Array, a: jax.Array, b: jax.Array, _: jax.Array | None) -> jax.Array:
    """Column potentials of a sharp Sinkhorn plan, made feasible, or minima if their dual value is higher."""
    usable = cost < jnp.inf
    slack = _row_prices(cost, 0 * b)
    lowest = _column_prices(cost, slack)
    mean = jnp.sum(jnp.where(usable, cost, 0)) / jnp.maximum(jnp.sum(usable.astype(cost.dtype)), 1)
    epsilon = jnp.where(mean > 0, _EPSILON * mean, 1)
    kernel = jnp.exp((slack[:, None] + lowest[None, :] - cost) / epsilon)
    _, columns = over_relaxed(kernel, log_where(a, a), log_where(b, b), _ITERATIONS)
    highest = jnp.max(columns, initial=-FARTHEST_LOG, where=b > 0)
    v = lowest + epsilon * (columns - highest)  # what all columns have in common would only cost precision
    v = _column_prices(cost, _row_prices(cost, v))
    return jnp.where(_dual_value(cost, a, b, v) > _dual_value(cost, a, b, lowest), v, lowest)


def _dual_value(cost: jax.Array, a: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.sum(a * _row_prices(cost, v)) + jnp.sum(b * v)


def _on_one_level(cost: jax.Array, w: jax.Array, level: jax.Array) -> jax.Array:
    """Potentials to which enough is added for each level that no allowed pair costs less than its potentials."""
    n = cost.shape[0]
    reduced, above = cost - w[:n, None] + w[None, n:], level[None, n:] - level[:n, None]
    lift = jnp.max(-reduced / jnp.where(above > 0, above, 1), initial=0, where=(above > 0) & (cost < jnp.inf))
    return w + lift * level


def _tightened(cost: jax.Array, a: jax.Array, b: jax.Array, v: jax.Array) -> jax.Array:
    """Make given column potentials feasible and as high as they can be; start afresh if they are poor or far off."""
    v = v - jnp.max(v, initial=-jnp.inf, where=b > 0)
    v = _column_prices(cost, jnp.min(jnp.where(b > 0, cost - v[None, :], jnp.inf), axis=1))
    u, least = _row_prices(cost, v), _column_prices(cost, jnp.zeros_like(a))
    proven, plain = (_dual_value(cost, a, b, prices) for prices in (v, least))
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
