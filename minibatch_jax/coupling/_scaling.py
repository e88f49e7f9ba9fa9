"""Matrix scaling to given marginals, stable at every epsilon; `_sinkhorn` holds the public side.

Iterations scale a kernel by vectors u and v, which takes two matrix-vector products and no exponential. When a scaling
leaves [1e-10, 1e10] it is absorbed into the potentials.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._checks import check_bool, check_shape

UNROLL = 5
SAFE = 1e10
_LEAST_EPSILON = 16


class Problem(NamedTuple):
    """Costs with infinity on forbidden pairs, and marginals that are 0 where no pair is allowed."""

    cost: jax.Array
    a: jax.Array
    b: jax.Array
    epsilon: jax.Array


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


def scale_to_marginals(problem: Problem, tolerance: float | None, max_iterations: int) -> Scaled:
    """Iterate to the tolerance: an inner loop of scalings on one kernel, an outer loop that absorbs them."""
    limit = jnp.asarray(-jnp.inf if tolerance is None else tolerance, problem.epsilon.dtype)
    run = _Run(problem, limit, jnp.int32(max_iterations), _start(problem))
    return lax.while_loop(_is_unfinished, _scale_by(math.gcd(UNROLL, max_iterations)), run).scaled


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
        return s._replace(scaled=lax.cond(_is_unfinished(s), lambda x: _absorb(s.problem, x), lambda x: x, s.scaled))

    return scale


def _start(problem: Problem) -> Scaled:
    cost, a, b, epsilon = problem
    f = jnp.where(a > 0, jnp.min(cost, axis=1), 0)
    g = jnp.where(b > 0, jnp.min(cost - f[:, None], axis=0), 0)
    zero = epsilon * 0
    scaling = Scaling(jnp.ones_like(a), jnp.ones_like(b), zero + jnp.inf, zero.astype(jnp.int32), zero > 0)
    return Scaled(f, g, _kernel(problem, f, g), scaling)


def _scale_block(problem: Problem, kernel: jax.Array, t: Scaling, steps: int) -> Scaling:
    _, a, b, _ = problem
    u, v = t.u, t.v
    for _ in range(steps):
        u = divide(a, dot(kernel, v))
        v = divide(b, dot(u, kernel))
    extreme = jnp.maximum(extreme_scaling(u, a), extreme_scaling(v, b))
    usable = extreme < SAFE**3
    u, v = jnp.where(usable, u, t.u), jnp.where(usable, v, t.v)
    mass = jnp.sum(a)
    error = jnp.sum(jnp.abs(u * dot(kernel, v) - a)) / jnp.where(mass > 0, mass, 1)
    error = jnp.where(usable, error, jnp.inf)
    return Scaling(u, v, error, t.iterations + steps, ~(extreme < SAFE))


def _absorb(problem: Problem, s: Scaled) -> Scaled:
    """Move the scalings into the potentials by one iteration in the log domain, which no epsilon can underflow."""
    cost, a, b, epsilon = problem
    g = s.g + epsilon * log_where(s.scaling.v, b)
    f = epsilon * (log_where(a, a) - logsumexp_where((g[None, :] - cost) / epsilon, 1, a))
    g = epsilon * (log_where(b, b) - logsumexp_where((f[:, None] - cost) / epsilon, 0, b))
    fresh = s.scaling._replace(u=jnp.ones_like(a), v=jnp.ones_like(b), unsafe=jnp.zeros_like(s.scaling.unsafe))
    return Scaled(f, g, _kernel(problem, f, g), fresh)


def _kernel(problem: Problem, f: jax.Array, g: jax.Array) -> jax.Array:
    return jnp.exp((f[:, None] + g[None, :] - problem.cost) / problem.epsilon)


def dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision="highest")


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
    scaling = jnp.where(mass > 0, scaling, 1)
    return jnp.maximum(jnp.max(scaling), 1 / jnp.min(scaling))


def make_problem(
    cost: jax.Array,
    a: jax.Array,
    b: jax.Array,
    epsilon: float | jax.Array,
    relative_to: str | None,
    where: jax.Array | None,
) -> Problem:
    """Set forbidden pairs to infinite cost and rows and columns without a pair to mass 0; all results are constants."""
    if where is not None:
        check_shape("where", where, cost.shape)
        check_bool("where", where)
    cost, a, b = lax.stop_gradient(cost), lax.stop_gradient(a), lax.stop_gradient(b)
    allowed = jnp.isfinite(cost) & (a > 0)[:, None] & (b > 0)[None, :]
    allowed = allowed if where is None else allowed & where
    cost = jnp.where(allowed, cost, jnp.inf)
    epsilon = lax.stop_gradient(jnp.asarray(epsilon, cost.dtype)) * statistic(cost, relative_to)
    numbers = jnp.finfo(cost.dtype)
    epsilon = jnp.maximum(epsilon, jnp.maximum(_LEAST_EPSILON * numbers.eps * statistic(cost, "max"), numbers.tiny))
    # a minimum of floats is several times faster on a CPU than `any` of booleans
    a, b = (jnp.where(jnp.min(cost, axis=axis) < jnp.inf, mass, 0) for axis, mass in ((1, a), (0, b)))
    return Problem(cost, a, b, epsilon)


def statistic(cost: jax.Array, relative_to: str | None) -> jax.Array:
    """Return the unit of epsilon: 1, or a statistic of the costs that are not infinite (1 if that is 0)."""
    if relative_to is None:
        return jnp.ones((), cost.dtype)
    if relative_to == "std":
        scale = _deviation(cost)
    else:
        # XLA on CPU materializes a reduction's operand. Costs are usually finite and non-negative: then reduce the cost
        # itself, unmasked.
        plain = (jnp.min(jnp.min(cost, axis=-1)) >= 0) & (jnp.max(cost) < jnp.finfo(cost.dtype).max / cost.size)
        scale = lax.cond(plain, *_STATISTICS[relative_to], cost)
    return jnp.where(scale > 0, scale, 1)


def _largest(cost: jax.Array) -> jax.Array:
    return jnp.max(jnp.abs(cost), where=cost < jnp.inf, initial=0)


def _mean(cost: jax.Array) -> jax.Array:
    largest, unit, _, count = _in_units(cost)
    return largest * (jnp.sum(jnp.abs(unit)) / count)


def _deviation(cost: jax.Array) -> jax.Array:
    largest, unit, allowed, count = _in_units(cost)
    return largest * jnp.sqrt(jnp.sum(jnp.where(allowed, (unit - jnp.sum(unit) / count) ** 2, 0)) / count)


def _in_units(cost: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The largest cost, the costs as fractions of it (0 where forbidden), which are allowed and how many."""
    largest, allowed = _largest(cost), cost < jnp.inf
    unit = jnp.where(allowed, cost / jnp.where(largest > 0, largest, 1), 0)
    return largest, unit, allowed, jnp.maximum(jnp.sum(allowed.astype(cost.dtype)), 1)


_STATISTICS = {"mean": (jnp.mean, _mean), "max": (jnp.max, _largest)}
