"""Entropic partial coupling: a smooth plan that moves only a part of the mass, stable at every epsilon.

With `P = exp((shift - cost - alpha - beta) / epsilon)` and alpha, beta >= 0, each dual variable in turn is set to its
optimum: alpha and beta cut rows and columns down to their marginals, the shift fixes the mass. The iterations scale
factors of a kernel, and absorb the factors into the dual variables when they leave [1e-10, 1e10]. (Plain Sinkhorn with
a dummy row and column also regularizes the mass that is left out, and gives another plan.)

References:
  Benamou et al., Iterative Bregman projections for regularized transportation problems, 2015 (arXiv 1412.5154).
  Nguyen et al., Improving mini-batch optimal transport via partial transportation, 2022 (arXiv 2108.09645).

Method: m-POT (partial transport)
Paper: 2108.09645
Experiment: partial_transport, speed partial, domain_adaptation, transport_gradient_flow, transport_generator
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_number
from minibatch_jax.coupling._certificates import has_converged, with_slopes
from minibatch_jax.coupling._problem import Problem, check_entropic, make_problem, marginals_of, masses
from minibatch_jax.coupling._sinkhorn_loop import (
    SAFE,
    divide,
    extreme_scaling,
    iterations_at_once,
    log_where,
    logsumexp_where,
)
from minibatch_jax.coupling.plans import Plan, init_report, report_of
from minibatch_jax.geometry import product
from minibatch_jax.weights import weight_transformation

TOLERANCE = 1e-4


def partial_sinkhorn(
    cost: jax.Array,
    fraction: float | jax.Array,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    *,
    epsilon: float | jax.Array,
    relative_to: str | None = None,
    where: jax.Array | None = None,
    tolerance: float | None = TOLERANCE,
    max_iterations: int | jax.Array = 1000,
) -> Plan:
    """Return the entropic plan of the cheapest part of the mass.

    It is the plan P of the given mass, with `P 1 <= a` and `P^T 1 <= b`, that minimizes `sum(P * cost) - epsilon *
    entropy(P)`, where the entropy is `-sum(P log P)`.

    The plan is a constant for the backward pass; `value` has a gradient. A feasible plan need not be the
    optimum, so `error` is not the mass beyond the limits but the mass that the last iteration still moved, as a
    fraction of the mass of the plan.

    Args:
      cost: `[B0, B1]`, floating point; a pair of non-finite cost is forbidden.
      fraction: fraction of `min(sum(a), sum(b))` that is moved, in (0, 1], may be traced.
      a: `[B0]`, most mass of each row, at least 0; uniform with sum 1 by default.
      b: `[B1]`, most mass of each column, at least 0; uniform with sum 1 by default. The sums may differ.
      epsilon: entropic regularization, > 0, may be traced; raised to 16 times the rounding error of the largest cost,
        if it is less.
      relative_to: None if epsilon is absolute; `'mean'`, `'std'` or `'max'` if epsilon is a fraction of the mean or
        maximum absolute cost, or of the standard deviation of the cost, over allowed pairs (of 1, if that is 0).
        OTT calls it `relative_epsilon`, has no maximum, and counts the pairs of a row or column of mass 0, which do not
        count here.
      where: `[B0, B1]` bool, which pairs are allowed; all by default.
      tolerance: stop when `error` is at most this, at least 0; None runs exactly `max_iterations`.
      max_iterations: at most this many; a traced number is rounded up to a multiple of 5. Under `vmap` all problems run
        until the slowest has stopped.

    Returns:
      `Plan(matrix, row_potentials, column_potentials, value, error, iterations, converged)`. The mass of `matrix` is
      exact, and with row potentials f and column potentials g it is `exp((f + g - cost) / epsilon)`. `value` is the
      minimum; its gradient in the cost and the marginals is that of the envelope theorem and stops at the fraction and
      at epsilon, and a second derivative raises. Where a and b have the same mass, both share the slope of the mass.
      With `tolerance=None`, `converged` takes 1e-4 as the tolerance.

    Raises:
      TypeError: if the cost or a marginal is not floating point, or `where` not bool.
      ValueError: if shapes do not match, the mass is not in (0, 1], epsilon is not positive, or concrete marginals are
        negative or not finite.
      NotImplementedError: if `value` is differentiated twice.

    References:
      Benamou et al., Iterative Bregman projections for regularized transportation problems, 2015 (arXiv 1412.5154).
      Nguyen et al., Improving mini-batch optimal transport via partial transportation, 2022 (arXiv 2108.09645).

    Examples:
      >>> plan = partial_sinkhorn(jnp.array([[0.0, 9.0], [9.0, 5.0]]), 0.5, epsilon=0.5).matrix
      >>> [[round(x, 3) for x in row] for row in plan.tolist()]
      [[0.5, 0.0], [0.0, 0.0]]
    """
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_entropic(epsilon, relative_to, tolerance, max_iterations)
    live = masses(cost, a, b)
    dtype = live[0].dtype
    problem = make_problem(cost.astype(dtype), *live, epsilon, relative_to, where)
    totals = jnp.stack([jnp.sum(problem.a), jnp.sum(problem.b)])
    fraction = lax.stop_gradient(jnp.asarray(fraction, dtype))
    plan, dual = _alternate(problem, fraction * jnp.min(totals), tolerance, max_iterations)
    value = jnp.sum(
        plan.matrix * jnp.where(plan.matrix > 0, plan.row_potentials[:, None] + plan.column_potentials[None], 0)
    )
    least = (totals == jnp.min(totals)).astype(dtype)
    price = (dual.shift + problem.epsilon) * fraction * least / jnp.sum(least)
    slopes = (
        plan.matrix,
        jnp.where(problem.a > 0, price[0] - dual.alpha, 0),
        jnp.where(problem.b > 0, price[1] - dual.beta, 0),
    )
    live_cost = jnp.where(jnp.isfinite(problem.cost), cost.astype(dtype), 0)
    return plan._replace(value=with_slopes("partial_sinkhorn", value, slopes, (live_cost, *live)))


def couple_partial_sinkhorn(
    fraction: float | jax.Array,
    epsilon: float | jax.Array,
    *,
    relative_to: str | None = None,
    tolerance: float | None = TOLERANCE,
    max_iterations: int | jax.Array = 1000,
) -> optax.GradientTransformationExtraArgs:
    """Keep a fraction of the mass, on cheap pairs, smoothly; the rest gets 0. Signal: `cost` [B0, B1].

    The row and column sums of the incoming weights are the most that a row and a column may keep; a pair of weight 0 or
    of non-finite cost is forbidden. Do not normalize the rows afterwards.

    Args:
      fraction: fraction of the mass that is moved, in (0, 1]; may be injected by `optax.inject_hyperparams`.
      epsilon: entropic regularization, > 0; raised to 16 times the rounding error of the largest cost, if it is less.
        May be injected by `optax.inject_hyperparams(couple_partial_sinkhorn)`.
      relative_to: None if epsilon is absolute; `'mean'`, `'std'` or `'max'` if epsilon is a fraction of the mean or
        maximum absolute cost, or of the standard deviation of the cost, over allowed pairs (of 1, if that is 0).
      tolerance: stop when the last iteration moved at most this fraction of the mass, at least 0; None runs exactly
        `max_iterations`.
      max_iterations: at most this many; a traced number is rounded up to a multiple of 5. Under `vmap` all problems run
        until the slowest has stopped.

    Returns:
      A transformation; its update takes the signal `cost` `[B0, B1]` and returns the plan as weights and a
      `SolverReport` as state: whether the solver of this batch converged, and its error.

    Raises:
      ValueError: if the mass is not in (0, 1], epsilon is not positive, `relative_to` is unknown, the tolerance is
        negative or `max_iterations` is less than 1; on update, if the cost does not have the shape of the weights.

    References:
      Nguyen et al., Improving mini-batch optimal transport via partial transportation, 2022 (arXiv 2108.09645).

    Examples:
      >>> tx = couple_partial_sinkhorn(0.5, 0.5)
      >>> weights = jnp.ones((2, 2)) / 4
      >>> plan, _ = tx.update(weights, tx.init(weights), cost=jnp.array([[0.0, 9.0], [9.0, 5.0]]))
      >>> [[round(x, 3) for x in row] for row in plan.tolist()]
      [[0.5, 0.0], [0.0, 0.0]]
    """
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_entropic(epsilon, relative_to, tolerance, max_iterations)

    def update(weights, state, params=None, *, cost, **extra_args):
        allowed, a, b = marginals_of(weights, cost)
        plan = partial_sinkhorn(
            cost.astype(weights.dtype),
            fraction,
            a,
            b,
            epsilon=epsilon,
            relative_to=relative_to,
            where=allowed,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        return plan.matrix, report_of(plan)

    return weight_transformation(init_report, update)


class _Dual(NamedTuple):
    alpha: jax.Array
    beta: jax.Array
    shift: jax.Array


class _Scaling(NamedTuple):
    """Factors of the rows, of the columns and of all of the kernel; they start at 1."""

    u: jax.Array
    v: jax.Array
    total: jax.Array
    error: jax.Array
    iterations: jax.Array
    unsafe: jax.Array


class _Run(NamedTuple):
    """The loop: all it needs travels in its carry, so that eager calls compile only once."""

    problem: Problem
    mass: jax.Array
    tolerance: jax.Array
    max_iterations: jax.Array
    dual: _Dual
    kernel: jax.Array
    scaling: _Scaling


def _alternate(
    problem: Problem, mass: jax.Array, tolerance: float | None, max_iterations: int | jax.Array
) -> tuple[Plan, _Dual]:
    """The plan, without its value, and the dual variables of which its potentials are sums."""
    cost, a, b, epsilon = problem
    zero = 0 * epsilon
    lowest = jnp.where(jnp.any(a > 0), jnp.min(cost), 0)
    dual = _Dual(jnp.zeros_like(a), jnp.zeros_like(b), lowest)
    ones = jnp.ones_like(a), jnp.ones_like(b), zero + 1
    scaling = _Scaling(*ones, zero + jnp.inf, zero.astype(jnp.int32), zero > 0)
    limit = jnp.asarray(-jnp.inf if tolerance is None else tolerance, epsilon.dtype)
    run = _Run(problem, mass, limit, jnp.asarray(max_iterations, jnp.int32), dual, _kernel(problem, dual), scaling)
    final = lax.while_loop(_is_unfinished, _scale_by(iterations_at_once(max_iterations)), run)
    (alpha, beta, shift), (u, v, total, error, iterations, _) = final.dual, final.scaling
    matrix = final.kernel * (total * u)[:, None] * v[None]
    shift += epsilon * log_where(total, total)
    alpha, beta = alpha - epsilon * log_where(u, a), beta - epsilon * log_where(v, b)
    f, g = jnp.where(a > 0, shift - alpha, 0), jnp.where(b > 0, -beta, 0)
    error = jnp.where(mass > 0, error, 0)
    converged = has_converged(error, TOLERANCE if tolerance is None else tolerance, f, g)
    plan = Plan(matrix, f, g, jnp.full((), jnp.nan, error.dtype), error, iterations, converged)
    return plan, _Dual(alpha, beta, shift)


def _is_unfinished(r: _Run) -> jax.Array:
    return (r.scaling.iterations < r.max_iterations) & (r.scaling.error > r.tolerance)


@functools.cache
def _scale_by(steps: int) -> Callable[[_Run], _Run]:
    def scale(r):
        def goes_on(t):
            return _is_unfinished(r._replace(scaling=t)) & ~t.unsafe

        r = r._replace(scaling=lax.while_loop(goes_on, lambda t: _scale_block(r, t, steps), r.scaling))
        return lax.cond(_is_unfinished(r), _absorb, lambda x: x, r)

    return scale


def _scale_block(r: _Run, t: _Scaling, steps: int) -> _Scaling:
    """Run `steps` iterations on one kernel and measure what the last one moved."""
    _, a, b, epsilon = r.problem
    most_u, most_v = jnp.exp(r.dual.alpha / epsilon), jnp.exp(r.dual.beta / epsilon)
    old, new, columns = t, t, b
    for _ in range(steps):
        old = new
        u = jnp.where(a > 0, jnp.minimum(most_u, a / (old.total * product(r.kernel, old.v))), 1)
        columns = product(u, r.kernel)
        v = jnp.where(b > 0, jnp.minimum(most_v, b / (old.total * columns)), 1)
        new = old._replace(u=u, v=v, total=divide(r.mass, jnp.sum(v * columns)))
    change = jnp.sum(columns * jnp.abs(new.total * new.v - old.total * old.v)) / r.mass
    moved = jnp.sum(jnp.abs(new.u - old.u) / most_u * a) / r.mass
    extreme = jnp.maximum(
        jnp.maximum(extreme_scaling(new.u, a), extreme_scaling(new.v, b)), extreme_scaling(new.total, r.mass)
    )
    usable = extreme < SAFE**3
    error = jnp.where(usable, change + moved, jnp.inf)
    new = jax.tree.map(lambda x, y: jnp.where(usable, x, y), new, t)
    return new._replace(error=error, iterations=t.iterations + steps, unsafe=~(extreme < SAFE))


def _absorb(r: _Run) -> _Run:
    """Move the scalings into the dual variables by one iteration in the log domain, which no epsilon can underflow."""
    (_, a, b, epsilon), (u, v, total, *_) = r.problem, r.scaling
    beta = r.dual.beta - epsilon * jnp.log(v)
    shift = r.dual.shift + epsilon * jnp.log(total)
    alpha = _cut(logsumexp_where(_exponent(r.problem, _Dual(jnp.zeros_like(a), beta, shift)), 1, a), a, epsilon)
    columns = logsumexp_where(_exponent(r.problem, _Dual(alpha, jnp.zeros_like(b), shift)), 0, b)
    beta = _cut(columns, b, epsilon)
    kept = jnp.where(b > 0, columns - beta / epsilon, -jnp.inf)
    dual = _Dual(alpha, beta, shift + epsilon * (jnp.log(r.mass) - jax.nn.logsumexp(kept)))
    scaling = r.scaling._replace(u=jnp.ones_like(u), v=jnp.ones_like(v), total=jnp.ones_like(total), unsafe=total < 0)
    return r._replace(dual=dual, kernel=_kernel(r.problem, dual), scaling=scaling)


def _kernel(problem: Problem, dual: _Dual) -> jax.Array:
    return jnp.exp(_exponent(problem, dual))


def _exponent(problem: Problem, d: _Dual) -> jax.Array:
    return (d.shift - d.alpha[:, None] - d.beta[None, :] - problem.cost) / problem.epsilon


def _cut(excess: jax.Array, limit: jax.Array, epsilon: jax.Array) -> jax.Array:
    """The dual variable that brings a row or column of log-mass `excess` down to its limit."""
    return jnp.where(limit > 0, jnp.maximum(0, epsilon * (excess - log_where(limit, limit))), 0)
