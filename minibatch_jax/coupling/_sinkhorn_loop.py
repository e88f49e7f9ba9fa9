"""Matrix scaling to given marginals, stable at every epsilon: the iteration of all entropic solvers.

Iterations scale a kernel by vectors u and v, which takes two matrix-vector products and no exponential. When a scaling
leaves [1e-10, 1e10] it is absorbed into the potentials.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._loops import bind, given, if_needed, while_loop
from minibatch_jax._vector import vector_min, vector_sum
from minibatch_jax.coupling._problem import Problem, least_costs
from minibatch_jax.geometry import product

UNROLL = 5
SAFE = 1e10
_RELAXATION = 1.7
FARTHEST_LOG = 40.0  # bound of the logs of over-relaxed factors, so that no float32 overflows


class Scaling(NamedTuple):
    u: jax.Array
    v: jax.Array
    error: jax.Array
    iterations: jax.Array
    unsafe: jax.Array


class Scaled(NamedTuple):
    f: jax.Array
    g: jax.Array
    kernel: jax.Array
    scaling: Scaling


class _Run(NamedTuple):
    """The outer loop: all it needs travels in its carry, so that eager calls compile only once."""

    problem: Problem
    tolerance: jax.Array
    max_iterations: jax.Array
    scaled: Scaled


def iterations_at_once(max_iterations: int | jax.Array) -> int:
    """Return how many iterations a step of the loop does: a divisor of a static number, so that no more are done."""
    return UNROLL if isinstance(max_iterations, jax.Array) else math.gcd(UNROLL, max_iterations)


def scale_to_marginals(
    problem: Problem,
    tolerance: float | None,
    max_iterations: int | jax.Array,
    prices: jax.Array | None = None,
    done: jax.Array | None = None,
) -> Scaled:
    """Iterate to the tolerance: an inner loop of scalings on one kernel, an outer loop that absorbs them.

    Args:
      problem: what to solve.
      tolerance: largest error; None runs all iterations.
      max_iterations: at most this many, those that are `done` included.
      prices: `[B1]`, column potentials to start from; the cheapest pairs decide where they are None.
      done: `[]` int32, iterations that were spent on the prices; 0 by default.
    """
    limit = jnp.asarray(-jnp.inf if tolerance is None else tolerance, problem.epsilon.dtype)
    start = _start(problem)
    if prices is not None:
        start = _absorb(problem, start._replace(g=jnp.where(problem.b > 0, prices, 0)))
    if done is not None:
        start = start._replace(scaling=start.scaling._replace(iterations=done))
    run = _Run(problem, limit, jnp.asarray(max_iterations, jnp.int32), start)
    return lax.while_loop(_is_unfinished, _scale_by(iterations_at_once(max_iterations)), run).scaled


class _Annealing(NamedTuple):
    """The loop over a falling epsilon, of which `unit` is the unit: column potentials, and iterations so far."""

    problem: Problem
    unit: jax.Array
    max_iterations: jax.Array
    prices: jax.Array
    iterations: jax.Array


def anneal(
    problem: Problem,
    schedule: Callable[[Any], Any],
    unit: jax.Array,
    max_iterations: int | jax.Array,
    prices: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Iterate in the log domain while the schedule is above the epsilon of the problem.

    Returns:
      Column potentials `[B1]`, and the number of iterations.
    """
    count = jnp.asarray(max_iterations, jnp.int32)
    run = _Annealing(problem, unit, count, prices, jnp.zeros_like(problem.epsilon, jnp.int32))
    final = while_loop(given(_is_annealing, schedule), given(_annealing_step, schedule), run)
    return final.prices, final.iterations


def _epsilon_now(schedule: Callable[[Any], Any], r: _Annealing) -> jax.Array:
    return jnp.asarray(schedule(r.iterations), r.unit.dtype) * r.unit


def _is_annealing(schedule: Callable[[Any], Any], r: _Annealing) -> jax.Array:
    return (r.iterations < r.max_iterations) & (_epsilon_now(schedule, r) > r.problem.epsilon)


def _annealing_step(schedule: Callable[[Any], Any], r: _Annealing) -> _Annealing:
    _, g = _log_step(r.problem._replace(epsilon=_epsilon_now(schedule, r)), r.prices)
    return r._replace(prices=g, iterations=r.iterations + 1)


def _is_unfinished(s: _Run) -> jax.Array:
    scaling = s.scaled.scaling
    return (scaling.iterations < s.max_iterations) & (scaling.error > s.tolerance)


@functools.cache
def _scale_by(steps: int) -> Callable[[_Run], _Run]:
    def scale(s):
        def with_scaling(t):
            return s._replace(scaled=s.scaled._replace(scaling=t))

        def block(t):
            return _scale_block(s.problem, s.scaled.kernel, t, steps)

        scaling = lax.while_loop(lambda t: _is_unfinished(with_scaling(t)) & ~t.unsafe, block, s.scaled.scaling)
        s = with_scaling(scaling)
        return s._replace(scaled=if_needed(_is_unfinished(s), bind(_absorb, s.problem), s.scaled))

    return scale


def _start(problem: Problem) -> Scaled:
    cost, a, b, epsilon = problem
    f, g, _, _ = least_costs(cost)
    zero = epsilon * 0
    scaling = Scaling(jnp.ones_like(a), jnp.ones_like(b), zero + jnp.inf, zero.astype(jnp.int32), zero > 0)
    return Scaled(f, g, _kernel(problem, f, g), scaling)


def _scale_block(problem: Problem, kernel: jax.Array, t: Scaling, steps: int) -> Scaling:
    _, a, b, _ = problem
    u, v = t.u, t.v
    for _ in range(steps):
        u, v = rescale(kernel, v, a, b)
    extreme = jnp.maximum(extreme_scaling(u, a), extreme_scaling(v, b))
    usable = extreme < SAFE**3
    u, v = jnp.where(usable, u, t.u), jnp.where(usable, v, t.v)
    mass = vector_sum(a)
    error = vector_sum(jnp.abs(u * product(kernel, v) - a)) / jnp.where(mass > 0, mass, 1)
    error = jnp.where(usable, error, jnp.inf)
    return Scaling(u, v, error, t.iterations + steps, ~(extreme < SAFE))


def _absorb(problem: Problem, s: Scaled) -> Scaled:
    """Move the scalings into the potentials by one iteration in the log domain, which no epsilon can underflow."""
    _, a, b, epsilon = problem
    f, g = _log_step(problem, s.g + epsilon * log_where(s.scaling.v, b))
    fresh = s.scaling._replace(u=jnp.ones_like(a), v=jnp.ones_like(b), unsafe=jnp.zeros_like(s.scaling.unsafe))
    return Scaled(f, g, _kernel(problem, f, g), fresh)


def _log_step(problem: Problem, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    cost, a, b, epsilon = problem
    f = epsilon * (log_where(a, a) - logsumexp_where((g[None, :] - cost) / epsilon, 1, a))
    return f, epsilon * (log_where(b, b) - logsumexp_where((f[:, None] - cost) / epsilon, 0, b))


def _kernel(problem: Problem, f: jax.Array, g: jax.Array) -> jax.Array:
    return jnp.exp((f[:, None] + g[None, :] - problem.cost) / problem.epsilon)


def rescale(kernel: jax.Array, v: jax.Array, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Bring the rows of `u kernel v` by u to the masses a and then its columns to b: one iteration of Sinkhorn."""
    u = divide(a, product(kernel, v))
    return u, divide(b, product(u, kernel))


class _Factors(NamedTuple):
    """The kernel, the logs of the masses, and the logs of the factors of rows and columns."""

    kernel: jax.Array
    log_a: jax.Array
    log_b: jax.Array
    log_u: jax.Array
    log_v: jax.Array


def over_relaxed(kernel: jax.Array, log_a: jax.Array, log_b: jax.Array, iterations: int) -> tuple[jax.Array, jax.Array]:
    """Do as `rescale` so many times, but go beyond the masses, by factors to the power 1.7, which converges faster.

    Masses are given, and factors returned, as logs; these are at most `FARTHEST_LOG` from 0.
    """
    return lax.fori_loop(0, iterations, _relax, _Factors(kernel, log_a, log_b, 0 * log_a, 0 * log_b))[-2:]


def _relax(_: jax.Array, s: _Factors) -> _Factors:
    def beyond(old, log_mass, total):
        new = log_mass - jnp.log(total)
        return jnp.clip((1 - _RELAXATION) * old + _RELAXATION * new, -FARTHEST_LOG, FARTHEST_LOG)

    log_u = beyond(s.log_u, s.log_a, _product(s.kernel, jnp.exp(s.log_v)))
    return s._replace(log_u=log_u, log_v=beyond(s.log_v, s.log_b, _product(jnp.exp(log_u), s.kernel)))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the product with a vector; for a TPU as sums, because stacks of products take seconds to compile there."""
    return lax.platform_dependent(a, b, tpu=_sums, default=product)


def _sums(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b[None, :], axis=1) if a.ndim == 2 else jnp.sum(a[:, None] * b, axis=0)


def divide(x: jax.Array, y: jax.Array) -> jax.Array:
    """`x / y`, 0 where x is 0."""
    return jnp.where(x > 0, x / jnp.where(x > 0, y, 1), 0)


def log_where(x: jax.Array, where: jax.Array) -> jax.Array:
    """`log(x)` where `where` is positive, else 0."""
    return jnp.log(jnp.where(where > 0, x, 1))


def logsumexp_where(x: jax.Array, axis: int, where: jax.Array) -> jax.Array:
    """Log-sum-exp along an axis, 0 where `where` is not positive."""
    top = jnp.where(where > 0, jnp.max(x, axis=axis), 0)
    return top + log_where(jnp.sum(jnp.exp(x - jnp.expand_dims(top, axis)), axis=axis), where)


def extreme_scaling(scaling: jax.Array, mass: jax.Array) -> jax.Array:
    """The largest factor or its inverse, where there is mass."""
    scaling = jnp.ravel(jnp.where(mass > 0, scaling, 1))
    return jnp.maximum(-vector_min(-scaling), 1 / vector_min(scaling))
