"""Entropic coupling on given marginals: a plan that is smooth in the cost, by Sinkhorn's matrix scaling.

The plan is `P = exp((f + g - cost) / epsilon)`. Iterations scale the kernel `K = exp((f + g - cost) / epsilon)` by
vectors u and v, which costs two matrix-vector products and no exponential; when a scaling leaves [1e-10, 1e10] it is
absorbed into the potentials f, g by one iteration in the log domain, so that no epsilon underflows.

References:
  Cuturi, Sinkhorn distances: lightspeed computation of optimal transport, 2013 (arXiv 1306.0895).
  Schmitzer, Stabilized sparse scaling algorithms for entropy regularized transport problems, 2016 (arXiv 1610.06519).
  Altschuler et al., Near-linear time approximation algorithms for optimal transport, 2017 (arXiv 1705.09634).

Method: Sinkhorn
Paper: 1306.0895
Experiment: ot_flow_matching, speed sinkhorn
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax.coupling._certificates import has_converged
from minibatch_jax.coupling._problem import (
    Problem,
    check_entropic,
    column_prices,
    make_problem,
    marginals_of,
    masses,
    statistic,
)
from minibatch_jax.coupling._sinkhorn_loop import Scaled, anneal, log_where, scale_to_marginals
from minibatch_jax.coupling.entropic._implicit import optimal_value
from minibatch_jax.coupling.plans import Plan, Potentials, WarmStart, init_report, init_warm_start, report_of
from minibatch_jax.weights import weight_transformation

TOLERANCE = 1e-3


def sinkhorn(
    cost: jax.Array,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    *,
    epsilon: float | jax.Array | optax.Schedule,
    relative_to: str | None = None,
    where: jax.Array | None = None,
    tolerance: float | None = TOLERANCE,
    max_iterations: int | jax.Array = 1000,
    init: tuple[jax.Array, jax.Array] | Plan | Potentials | None = None,
) -> Plan:
    """Return the plan with marginals a, b that minimizes `sum(plan * cost) + epsilon * KL(plan | a b)`.

    With row potentials f and column potentials g the plan is `exp((f + g - cost) / epsilon)`. A traced a and b of
    unequal mass cannot raise: the columns then sum to b, and `error` shows what the rows lack.

    Args:
      cost: `[B0, B1]`, floating point; a pair of non-finite cost is forbidden.
      a: `[B0]`, mass of each row, at least 0; uniform with sum 1 by default.
      b: `[B1]`, mass of each column, at least 0; uniform with sum 1 by default.
      epsilon: entropic regularization, > 0, may be traced; raised to 16 times the rounding error of the largest cost,
        if it is less. Or a schedule of optax, from the number of the iteration to an epsilon that never rises: the
        problem is that of its value at `max_iterations`, and large values before it speed up a small one.
      relative_to: None if epsilon is absolute; `'mean'`, `'std'` or `'max'` if epsilon is a fraction of the mean or
        maximum absolute cost, or of the standard deviation of the cost, over allowed pairs (of 1, if that is 0).
        OTT calls it `relative_epsilon`, has no maximum, and counts the pairs of a row or column of mass 0, which do not
        count here.
      where: `[B0, B1]` bool, which pairs are allowed; all by default.
      tolerance: stop when `error` is at most this, at least 0; None runs exactly `max_iterations`. Checked every 5
        iterations.
      max_iterations: at most this many; a traced number is rounded up to a multiple of 5. Under `vmap` all problems run
        until the slowest has stopped.
      init: where to start: row and column potentials, as a pair `([B0], [B1])` or in the result of a similar problem.
        The solver reads those of the columns; entries that are not finite count as 0.

    Returns:
      `Plan(matrix, row_potentials, column_potentials, value, error, iterations, converged)`. The columns of `matrix`
      sum to b, and `error` is the L1 distance of the row sums to a, as a fraction of the mass. `value` has a gradient:
      the plan for the cost and f, g for the marginals, up to a constant (envelope theorem); higher derivatives solve a
      linear system of size B1 and want a small error. The gradient stops at epsilon, with `relative_to` too, and at all
      other fields: take `differentiable_plan` for the matrix. With `tolerance=None`, `converged` takes 1e-3 as the
      tolerance.

    Raises:
      TypeError: if the cost or a marginal is not floating point, or `where` not bool.
      ValueError: if shapes do not match, epsilon is not positive or a schedule that rises, or concrete marginals are
        negative, not finite or of unequal mass.

    References:
      Cuturi, Sinkhorn distances: lightspeed computation of optimal transport, 2013 (arXiv 1306.0895).

    Examples:
      >>> plan = sinkhorn(jnp.array([[0.0, 1.0], [1.0, 0.0]]), epsilon=0.1).matrix
      >>> [[round(x, 3) for x in row] for row in plan.tolist()]
      [[0.5, 0.0], [0.0, 0.5]]
    """
    check_entropic(epsilon, relative_to, tolerance, max_iterations, schedules=True)
    live_a, live_b = masses(cost, a, b, equal=True)
    live = cost.astype(live_a.dtype), live_a, live_b
    last = jnp.asarray(epsilon(jnp.asarray(max_iterations))) if callable(epsilon) else epsilon
    problem = make_problem(*live, last, relative_to, where)
    prices, done = column_prices(init, cost), None
    if callable(epsilon):
        unit = statistic(problem.cost, relative_to)
        start = jnp.zeros_like(problem.b) if prices is None else prices
        prices, done = anneal(problem, epsilon, unit, max_iterations, start)
    scaled = scale_to_marginals(problem, tolerance, max_iterations, prices, done)
    return _result(problem, scaled, live, tolerance)


def couple_sinkhorn(
    epsilon: float | jax.Array | optax.Schedule,
    *,
    relative_to: str | None = None,
    tolerance: float | None = TOLERANCE,
    max_iterations: int | jax.Array = 1000,
    warm_start: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Move the weights onto cheap pairs, keeping the mass of every row and column. Signal: `cost` [B0, B1].

    The row and column sums of the incoming weights are the marginals; a pair of weight 0 or of non-finite cost is
    forbidden and its weight is lost. The incoming weights themselves fulfil the constraints, so a plan always exists.

    Args:
      epsilon: entropic regularization, > 0; raised to 16 times the rounding error of the largest cost, if it is less.
        May be injected by `optax.inject_hyperparams(couple_sinkhorn)`. Or a schedule of the solver's iteration, as
        `sinkhorn` takes it; what `inject_hyperparams` injects is a schedule of the batch.
      relative_to: None if epsilon is absolute; `'mean'`, `'std'` or `'max'` if epsilon is a fraction of the mean or
        maximum absolute cost, or of the standard deviation of the cost, over allowed pairs (of 1, if that is 0).
      tolerance: stop when the L1 distance of the row sums to the marginal is at most this fraction of the mass, at
        least 0; None runs exactly `max_iterations`. Checked every 5 iterations.
      max_iterations: at most this many; a traced number is rounded up to a multiple of 5. Under `vmap` all problems run
        until the slowest has stopped.
      warm_start: whether each batch starts from the column potentials of the last one, static. It saves iterations
        where column j stays the same item or moves little, not where batches are drawn anew.

    Returns:
      A transformation; its update takes the signal `cost` `[B0, B1]` and returns the plan as weights and a
      `SolverReport` as state: whether the solver of this batch converged, and its error. With `warm_start` the state is
      a `WarmStart`.

    Raises:
      ValueError: if epsilon is not positive, `relative_to` is unknown, the tolerance is negative or `max_iterations` is
        less than 1; on update, if the cost does not have the shape of the weights.

    References:
      Cuturi, Sinkhorn distances: lightspeed computation of optimal transport, 2013 (arXiv 1306.0895).

    Examples:
      >>> tx = couple_sinkhorn(0.1)
      >>> weights = jnp.ones((2, 2)) / 4
      >>> plan, _ = tx.update(weights, tx.init(weights), cost=jnp.array([[0.0, 1.0], [1.0, 0.0]]))
      >>> [[round(x, 3) for x in row] for row in plan.tolist()]
      [[0.5, 0.0], [0.0, 0.5]]
    """
    check_entropic(epsilon, relative_to, tolerance, max_iterations, schedules=True)

    def update(weights, state, params=None, *, cost, **extra_args):
        allowed, a, b = marginals_of(weights, cost)
        plan = sinkhorn(
            cost.astype(weights.dtype),
            a,
            b,
            epsilon=epsilon,
            relative_to=relative_to,
            where=allowed,
            tolerance=tolerance,
            max_iterations=max_iterations,
            init=(a, state.column_potentials) if warm_start else None,
        )
        report = report_of(plan)
        return plan.matrix, WarmStart(plan.column_potentials, report) if warm_start else report

    return weight_transformation(init_warm_start if warm_start else init_report, update)


def _result(
    problem: Problem, scaled: Scaled, live: tuple[jax.Array, jax.Array, jax.Array], tolerance: float | None
) -> Plan:
    cost, a, b, epsilon = problem
    u, v, error, iterations, _ = scaled.scaling
    matrix = u[:, None] * scaled.kernel * v[None, :]
    f, g = scaled.f + epsilon * log_where(u, a), scaled.g + epsilon * log_where(v, b)
    mass = jnp.sum(b)
    da, db = f - epsilon * log_where(a, a), g - epsilon * log_where(b, b)
    value = jnp.sum(da * a) + jnp.sum(db * b) + epsilon * mass * log_where(mass, mass)
    live_cost, live_a, live_b = live
    live_cost = jnp.where(jnp.isfinite(cost), live_cost, 0)
    used_a, used_b = (jnp.where(mass > 0, live_mass, 0) for mass, live_mass in ((a, live_a), (b, live_b)))
    value = optimal_value(value, live_cost, used_a, used_b, epsilon, f, g, matrix)
    asked = jnp.sum(lax.stop_gradient(live_a))
    error += (asked - jnp.sum(a)) / jnp.where(asked > 0, asked, 1)
    converged = has_converged(error, TOLERANCE if tolerance is None else tolerance, f, g)
    return Plan(matrix, f, g, value, error, iterations, converged)
