"""Unbalanced coupling: a smooth plan whose marginals may depart from a and b at a price, in the log domain.

The plan minimizes `sum(P * cost) + epsilon * KL(P | reference) + rho * KL(P 1 | a) + rho * KL(P^T 1 | b)`, so pairs
that cost more than about rho are left out. The reference is `a b^T` over the geometric mean of the masses of a and b,
or constant (the entropy); the two give plans of different mass. OTT, JUMBOT and older POT use the constant. The default
of POT now is `a b^T` itself, which is ours only where the product of the two masses is 1. Each iteration also sets the
constant between the potentials to its optimum, because without this rho >> epsilon converges very slowly.

References:
  Chizat et al., Scaling algorithms for unbalanced transport problems, 2018 (arXiv 1607.05816).
  Sejourne et al., Faster unbalanced optimal transport: translation invariant Sinkhorn, 2022 (arXiv 2201.00730).
  Fatras et al., Unbalanced minibatch optimal transport; applications to domain adaptation, 2021 (arXiv 2103.03606).

Method: unbalanced transport
Paper: 1607.05816
Experiment: domain_adaptation
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_choice, check_number
from minibatch_jax.coupling._certificates import has_converged, with_slopes
from minibatch_jax.coupling._problem import (
    Problem,
    check_entropic,
    column_prices,
    make_problem,
    marginals_of,
    masses,
)
from minibatch_jax.coupling._sinkhorn_loop import log_where, logsumexp_where
from minibatch_jax.coupling.entropic.partial import TOLERANCE
from minibatch_jax.coupling.plans import Plan, Potentials, init_report, report_of
from minibatch_jax.weights import weight_transformation

_REFERENCES = ("product", "uniform")
Penalties = float | jax.Array | tuple[float | jax.Array, float | jax.Array]
"""What a unit of divergence costs, of both marginals or of rows and of columns."""


def unbalanced_sinkhorn(
    cost: jax.Array,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    *,
    epsilon: float | jax.Array,
    rho: Penalties,
    reference: str = "product",
    relative_to: str | None = None,
    where: jax.Array | None = None,
    tolerance: float | None = TOLERANCE,
    max_iterations: int | jax.Array = 1000,
    init: tuple[jax.Array, jax.Array] | Plan | Potentials | None = None,
) -> Plan:
    """Return the plan P that minimizes cost, blur and the price of departing from the marginals a and b.

    It minimizes `sum(P * cost) + epsilon * KL(P | reference) + rho * KL(P 1 | a) + rho * KL(P^T 1 | b)`, where
    `KL(x | y) = sum(x log(x / y) - x + y)`. With the product reference and costs >= 0 the mass of P is at most that of
    a and b. P and the potentials are constants for the backward pass; `value` has a gradient.

    Args:
      cost: `[B0, B1]`, floating point; a pair of non-finite cost is forbidden.
      a: `[B0]`, mass of each row, at least 0; uniform with sum 1 by default.
      b: `[B1]`, mass of each column, at least 0; uniform with sum 1 by default. The sums may differ.
      epsilon: entropic regularization, > 0, may be traced; raised to 16 times the rounding error of the largest cost,
        if it is less.
      rho: price of a unit of divergence of the marginals, > 0, in the unit of the cost, may be traced; or a pair, of
        the row sums and of the column sums. Infinity holds a marginal: on one side this is semi-relaxed transport, on
        both sides `sinkhorn`.
      reference: `'product'` for `a b^T` divided by the geometric mean of their masses (as POT, if their product is 1),
        `'uniform'` for 1 (as OTT).
      relative_to: None if epsilon is absolute; `'mean'`, `'std'` or `'max'` if epsilon is a fraction of the mean or
        maximum absolute cost, or of the standard deviation of the cost, over allowed pairs (of 1, if that is 0).
        OTT calls it `relative_epsilon`, has no maximum, and counts the pairs of a row or column of mass 0, which do not
        count here.
      where: `[B0, B1]` bool, which pairs are allowed; all by default.
      tolerance: stop when `error` is at most this, at least 0; None runs exactly `max_iterations`.
      max_iterations: at most this many; may be traced. Under `vmap` all problems run until the slowest has stopped.
      init: where to start: row and column potentials, as a pair `([B0], [B1])` or in the result of a similar problem.
        The solver reads those of the columns; entries that are not finite count as 0.

    Returns:
      `Plan(matrix, row_potentials, column_potentials, value, error, iterations, converged)`. With row potentials f and
      column potentials g, `matrix` is `reference * exp((f + g - cost) / epsilon)`. No marginal is a constraint here:
      `error` is the largest change of a column potential in the last iteration, divided by epsilon, which bounds the
      fraction of the mass it moved. `value` is the minimum, of the rows and columns that have a pair; its gradient in
      the cost and the marginals is that of the envelope theorem and stops at epsilon and rho, and a second derivative
      raises. With `tolerance=None`, `converged` takes 1e-4 as the tolerance.

    Raises:
      TypeError: if the cost or a marginal is not floating point, or `where` not bool.
      ValueError: if shapes do not match, epsilon or rho is not positive, the reference is unknown, or concrete
        marginals are negative or not finite.
      NotImplementedError: if `value` is differentiated twice.

    References:
      Chizat et al., Scaling algorithms for unbalanced transport problems, 2018 (arXiv 1607.05816).

    Examples:
      >>> plan = unbalanced_sinkhorn(1.0 - jnp.eye(2), epsilon=1.0, rho=1.0).matrix
      >>> [[round(x, 3) for x in row] for row in plan.tolist()]
      [[0.322, 0.118], [0.118, 0.322]]
    """
    _check_penalties(rho)
    check_choice("reference", reference, _REFERENCES)
    check_entropic(epsilon, relative_to, tolerance, max_iterations)
    live = masses(cost, a, b)
    dtype = live[0].dtype
    problem = make_problem(cost.astype(dtype), *live, epsilon, relative_to, where)
    of_rows, of_columns = rho if isinstance(rho, tuple) else (rho, rho)
    rhos = lax.stop_gradient((jnp.asarray(of_rows, dtype), jnp.asarray(of_columns, dtype)))
    prices = column_prices(init, cost)
    plan = _alternate(problem, rhos, reference, tolerance, max_iterations, prices)
    live_cost = jnp.where(jnp.isfinite(problem.cost), cost.astype(dtype), 0)
    value, slopes = _value_and_slopes(problem, rhos, reference, plan)
    return plan._replace(value=with_slopes("unbalanced_sinkhorn", value, slopes, (live_cost, *live)))


def couple_unbalanced(
    epsilon: float | jax.Array,
    rho: Penalties,
    *,
    reference: str = "product",
    relative_to: str | None = None,
    tolerance: float | None = TOLERANCE,
    max_iterations: int | jax.Array = 1000,
) -> optax.GradientTransformationExtraArgs:
    """Move the weights onto cheap pairs and lower those of rows and columns without any. Signal: `cost` [B0, B1].

    The row and column sums of the incoming weights are the marginals to stay near; a pair of weight 0 or of non-finite
    cost is forbidden. With `reference='uniform'`, or negative costs, the mass may also grow.

    Args:
      epsilon: entropic regularization, > 0; raised to 16 times the rounding error of the largest cost, if it is less.
        May be injected by `optax.inject_hyperparams(couple_unbalanced)`.
      rho: price of a unit of divergence of the marginals, > 0, in the unit of the cost; or a pair, of the row sums and
        of the column sums. Infinity holds a marginal; on both sides this is `couple_sinkhorn`.
      reference: `'product'` for the product of the marginals divided by the geometric mean of their masses, `'uniform'`
        for 1.
      relative_to: None if epsilon is absolute; `'mean'`, `'std'` or `'max'` if epsilon is a fraction of the mean or
        maximum absolute cost, or of the standard deviation of the cost, over allowed pairs (of 1, if that is 0).
      tolerance: stop when no column potential changes by more than this fraction of epsilon, at least 0; None runs
        exactly `max_iterations`.
      max_iterations: at most this many; may be traced. Under `vmap` all problems run until the slowest has stopped.

    Returns:
      A transformation; its update takes the signal `cost` `[B0, B1]` and returns the plan as weights and a
      `SolverReport` as state: whether the solver of this batch converged, and its error.

    Raises:
      ValueError: if epsilon or rho is not positive, the reference or `relative_to` is unknown, the tolerance is
        negative or `max_iterations` is less than 1; on update, if the cost does not have the shape of the weights.

    References:
      Chizat et al., Scaling algorithms for unbalanced transport problems, 2018 (arXiv 1607.05816).

    Examples:
      >>> tx = couple_unbalanced(0.1, 1.0)
      >>> weights = jnp.ones((2, 2)) / 4
      >>> plan, _ = tx.update(weights, tx.init(weights), cost=jnp.array([[0.0, 9.0], [9.0, 9.0]]))
      >>> [[round(x, 2) for x in row] for row in plan.tolist()]
      [[0.48, 0.0], [0.0, 0.01]]
    """
    _check_penalties(rho)
    check_choice("reference", reference, _REFERENCES)
    check_entropic(epsilon, relative_to, tolerance, max_iterations)

    def update(weights, state, params=None, *, cost, **extra_args):
        allowed, a, b = marginals_of(weights, cost)
        plan = unbalanced_sinkhorn(
            cost.astype(weights.dtype),
            a,
            b,
            epsilon=epsilon,
            rho=rho,
            reference=reference,
            relative_to=relative_to,
            where=allowed,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        return plan.matrix, report_of(plan)

    return weight_transformation(init_report, update)


class _Dual(NamedTuple):
    f: jax.Array
    g: jax.Array
    error: jax.Array
    iterations: jax.Array


class _Run(NamedTuple):
    """The loop: all it needs travels in its carry, so that eager calls compile only once."""

    score: jax.Array
    problem: Problem
    rhos: tuple[jax.Array, jax.Array]
    tolerance: jax.Array
    max_iterations: jax.Array
    dual: _Dual


def _check_penalties(rho: Penalties) -> None:
    if not isinstance(rho, tuple):
        check_number("rho", rho, 0, open_low=True)
        return
    if len(rho) != 2:
        raise ValueError(f"rho has {len(rho)} entries, wanted one number, or one for rows and one for columns.")
    for name, price in zip(("rho of rows", "rho of columns"), rho):
        check_number(name, price, 0, open_low=True)


def _log_reference(a: jax.Array, b: jax.Array, reference: str) -> jax.Array:
    if reference == "uniform":
        return jnp.zeros((a.shape[0], b.shape[0]), a.dtype)
    level = log_where(jnp.sum(a), jnp.sum(a)) / 2 + log_where(jnp.sum(b), jnp.sum(b)) / 2
    return log_where(a, a)[:, None] + log_where(b, b)[None, :] - level


def _alternate(
    problem: Problem,
    rhos: tuple[jax.Array, jax.Array],
    reference: str,
    tolerance: float | None,
    max_iterations: int | jax.Array,
    prices: jax.Array | None,
) -> Plan:
    cost, a, b, epsilon = problem
    score = -cost / epsilon + _log_reference(a, b, reference)
    zero = 0 * epsilon
    first = 0 * b if prices is None else jnp.where(b > 0, prices, 0)
    start = _Dual(0 * a, first, zero + jnp.inf, zero.astype(jnp.int32))
    limit = jnp.asarray(-jnp.inf if tolerance is None else tolerance, epsilon.dtype)
    run = _Run(score, problem, rhos, limit, jnp.asarray(max_iterations, jnp.int32), start)
    final = lax.while_loop(_is_unfinished, _step, run).dual
    f, g, error, iterations = final
    matrix = jnp.exp(score + f[:, None] / epsilon + g[None, :] / epsilon)
    converged = has_converged(error, TOLERANCE if tolerance is None else tolerance, f, g)
    return Plan(matrix, f, g, jnp.full((), jnp.nan, error.dtype), error, iterations, converged)


def _is_unfinished(r: _Run) -> jax.Array:
    return (r.dual.iterations < r.max_iterations) & (r.dual.error > r.tolerance)


def _step(r: _Run) -> _Run:
    _, a, b, epsilon = r.problem
    f = _half(r, r.dual.g, 0, a)
    g = _half(r, f, 1, b)
    shift = _best_shift(f, g, a, b, *r.rhos)
    f, g = jnp.where(a > 0, f + shift, 0), jnp.where(b > 0, g - shift, 0)
    error = jnp.max(jnp.abs(g - r.dual.g), where=b > 0, initial=0) / epsilon
    return r._replace(dual=_Dual(f, g, error, r.dual.iterations + 1))


def _half(r: _Run, other: jax.Array, axis: int, mass: jax.Array) -> jax.Array:
    epsilon, rho = r.problem.epsilon, r.rhos[axis]
    damping = jnp.where(jnp.isinf(rho), 1, rho / (rho + epsilon))
    reach = logsumexp_where(r.score + jnp.expand_dims(other, axis) / epsilon, 1 - axis, mass)
    return jnp.where(mass > 0, damping * epsilon * (log_where(mass, mass) - reach), 0)


def _best_shift(
    f: jax.Array, g: jax.Array, a: jax.Array, b: jax.Array, rho_a: jax.Array, rho_b: jax.Array
) -> jax.Array:
    """The constant that, added to f and taken from g, is optimal: the row and column sums then have the same mass."""
    log_a, log_b = (jax.nn.logsumexp(-x / rho, b=mass) for x, mass, rho in ((f, a, rho_a), (g, b, rho_b)))
    speed = 1 / rho_a + 1 / rho_b
    usable = (speed > 0) & jnp.isfinite(log_a) & jnp.isfinite(log_b)
    return jnp.where(usable, (log_a - log_b) / jnp.where(speed > 0, speed, 1), 0)


def _value_and_slopes(
    problem: Problem, rhos: tuple[jax.Array, jax.Array], reference: str, plan: Plan
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    """The minimum, and its slopes in the cost and in the masses of rows and columns."""
    cost, a, b, epsilon = problem
    matrix, f, g = plan.matrix, plan.row_potentials, plan.column_potentials
    usable = (cost < jnp.inf) & (a > 0)[:, None] & (b > 0)[None, :]
    logs = _log_reference(a, b, reference)
    beside = jnp.where(usable, jnp.exp(logs), 0)
    lacking = beside - matrix
    gain = jnp.where(usable, f[:, None] + g[None, :], 0)  # cost + epsilon log(P / reference)
    value = jnp.sum(matrix * gain) + epsilon * jnp.sum(lacking)
    slopes = []
    for axis, (mass, potentials, rho) in enumerate(((a, f, rhos[0]), (b, g, rhos[1]))):
        sums = jnp.sum(matrix, axis=1 - axis)
        divergence = rho * jnp.sum(sums * (log_where(sums, sums) - log_where(mass, mass)) - sums + mass)
        value += jnp.where(jnp.isinf(rho), jnp.sum(potentials * (mass - sums)), divergence)
        slope = jnp.where(jnp.isinf(rho), potentials, -rho * jnp.expm1(-potentials / rho))
        if reference == "product":
            total = jnp.sum(mass)
            slope += epsilon * jnp.sum(lacking, axis=1 - axis) / jnp.where(mass > 0, mass, 1)
            slope -= epsilon * jnp.sum(lacking) / (2 * jnp.where(total > 0, total, 1))
        slopes.append(jnp.where(mass > 0, slope, 0))
    return value, (matrix, *slopes)
