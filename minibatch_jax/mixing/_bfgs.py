"""Minima of a smooth function of a vector, from several starts at once, by BFGS.

One evaluation per iteration, in one loop for all starts: little to compile, and none waits for the line search of
another. The inverse Hessian is a dense matrix, so it is for up to some hundred unknowns, scaled to about one each.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._loops import Bound, bind, while_loop
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import product

_LONGEST_STEP, _LEAST_STEP = 3.0, 1e-4
"""longest step, and the least fraction of a step that is tried"""


class Minimum(NamedTuple):
    """Where the descent from one start ended.

    Attributes:
      point: `[P]`.
      value: `[]`, of the function; infinite if it is not finite at the start.
      gradient: `[P]`.
      inverse: `[P, P]`, approximate inverse Hessian.
      step: `[]`, fraction of the next step that is tried.
    """

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    inverse: jax.Array
    step: jax.Array


def minimize_all(objective: Bound, starts: jax.Array, *, max_iterations: int, tolerance: float | jax.Array) -> Minimum:
    """Return the ends of all descents: each field of `Minimum` with a leading axis.

    Args:
      objective: `[P]` -> `[]`, a function of a module with its first arguments bound; infinite where undefined.
      starts: `[S, P]`, floating point.
      max_iterations: of each start, with one evaluation each, the first at the start itself.
      tolerance: a start is done when no entry of its gradient is larger; all stop when all are done or cannot move.

    Returns:
      A `Minimum` of arrays with a leading axis S.
    """
    goes_on = bind(_goes_on, tolerance, max_iterations=max_iterations)
    first = jnp.zeros((), jnp.int32), jax.vmap(_start)(starts)
    return while_loop(goes_on, bind(_step_all, objective), first)[1]


def _start(point):
    nothing, one = jnp.zeros_like(point), jnp.ones((), point.dtype)
    return Minimum(point, jnp.inf * one, nothing, jnp.eye(point.shape[0], dtype=point.dtype), one)


def _goes_on(tolerance, state, *, max_iterations):
    count, found = state
    unfinished = jnp.isinf(found.value) | (jnp.max(jnp.abs(found.gradient), axis=1) > tolerance)
    return (count < max_iterations) & jnp.any(unfinished & (found.step > _LEAST_STEP))


def _step_all(objective, state):
    count, found = state
    return count + 1, jax.vmap(lambda one: _step(objective, one))(found)


def _step(objective, old):
    """Try one step, the first of length 0. If the function does not fall enough, stay and try a fifth of it next."""
    direction = -product(old.inverse, old.gradient)
    direction *= old.step * jnp.minimum(1, _LONGEST_STEP / nonzero(jnp.linalg.norm(direction)))
    point = old.point + direction
    value, gradient = jax.value_and_grad(objective)(point)
    rounding = jnp.where(jnp.isinf(old.value), 0, 4 * jnp.finfo(value.dtype).eps * jnp.abs(old.value))
    accepted = value <= old.value + 1e-4 * product(old.gradient, direction) + rounding
    accepted &= jnp.all(jnp.isfinite(gradient))
    change = gradient - old.gradient
    curvature = product(direction, change)
    known = accepted & (curvature > 1e-4 * product(direction, direction))
    rho = 1 / jnp.where(known, curvature, 1)
    left = jnp.eye(point.shape[0], dtype=point.dtype) - rho * direction[:, None] * change[None, :]
    inverse = product(product(left, old.inverse), left.T) + rho * direction[:, None] * direction[None, :]
    new = Minimum(point, value, gradient, jnp.where(known, inverse, old.inverse), jnp.ones_like(old.step))
    stay = old._replace(step=old.step / 5)
    return jax.tree.map(lambda n, s: jnp.where(accepted, n, s), new, stay)
