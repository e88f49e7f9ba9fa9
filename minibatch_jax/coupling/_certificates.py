"""What solvers report of a result: whether it has converged, and a value with a gradient."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


def has_converged(error: jax.Array, tolerance: float | jax.Array, *potentials: jax.Array) -> jax.Array:
    """Return whether the error is within the tolerance and all potentials are finite."""
    found = error <= jnp.asarray(tolerance, error.dtype)
    for prices in potentials:
        found &= jnp.all(jnp.isfinite(prices))
    return found


def first_order(slope: jax.Array, x: jax.Array) -> jax.Array:
    """Return zero, with the gradient `slope` with respect to x."""
    return jnp.sum(lax.stop_gradient(slope) * (x - lax.stop_gradient(x)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def with_slopes(
    solver: str, value: jax.Array, slopes: tuple[jax.Array, ...], variables: tuple[jax.Array, ...]
) -> jax.Array:
    """Return the value, with a slope for each variable: what the envelope theorem gives at the optimum.

    The slopes themselves change with the variables, so a second derivative raises, with the name of the solver.
    """
    return value


@with_slopes.defjvp
def _value_tangent(solver, primals, tangents):
    value, slopes, variables = primals
    steps = tangents[2]
    return value, sum(jnp.sum(slope * step) for slope, step in zip(_once(solver, slopes, variables), steps))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _once(solver: str, slopes: tuple[jax.Array, ...], variables: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return slopes


@_once.defjvp
def _refuse(solver, primals, tangents):
    raise NotImplementedError(
        f"value of {solver} is differentiated twice, wanted once: the solver gives first derivatives only. The value "
        "of sinkhorn has all of them."
    )
