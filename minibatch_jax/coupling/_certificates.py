"""What solvers report of a result: whether it has converged, and a value with a gradient."""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from minibatch_jax.geometry import product


def has_converged(error: jax.Array, tolerance: float | jax.Array, *potentials: jax.Array) -> jax.Array:
    """Return whether the error is within the tolerance and all potentials are finite."""
    found = error <= jnp.asarray(tolerance, error.dtype)
    for prices in potentials:
        found &= jnp.all(jnp.isfinite(prices))
    return found


@jax.custom_jvp
def linear_value(
    value: jax.Array, cost: jax.Array, a: jax.Array, b: jax.Array, matrix: jax.Array, u: jax.Array, v: jax.Array
) -> jax.Array:
    """Return the optimum `value` of a linear program with derivatives: the plan for the cost, prices for the masses.

    The value is piecewise linear in the cost and in the masses, but not in both. As long as the same pairs have mass,
    the plan is linear in the masses and the prices are linear in the cost: both solve the equations of these pairs.
    """
    return value


def _value_tangent(primals, tangents):
    value, cost, a, b, matrix, u, v = primals
    tangent, (u, v) = jnp.zeros_like(value), _prices(u, v, cost, matrix)
    for slope, d in zip((_plan(matrix, a, b), u, v), tangents[1:4]):
        if not isinstance(d, SymbolicZero):  # a derivative that is NaN where it is not asked for would spoil the others
            tangent += jnp.sum(slope * d)
    return value, tangent


linear_value.defjvp(_value_tangent, symbolic_zeros=True)


@jax.custom_jvp
def _plan(matrix: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return matrix


@_plan.defjvp
def _plan_tangent(primals, tangents):
    matrix = primals[0]
    f, g = _on_pairs(matrix, tangents[1], tangents[2])
    return _plan(*primals), jnp.where(matrix > 0, f[:, None] + g[None, :], 0)


@jax.custom_jvp
def _prices(u: jax.Array, v: jax.Array, cost: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    return u, v


@_prices.defjvp
def _price_tangents(primals, tangents):
    matrix, d_cost = primals[3], jnp.where(primals[3] > 0, tangents[2], 0)
    return _prices(*primals), _on_pairs(matrix, jnp.sum(d_cost, axis=1), jnp.sum(d_cost, axis=0))


def _on_pairs(matrix: jax.Array, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solve for f, g: over the pairs that have mass, f_i + g_j sums to `rows` and `columns`.

    The pairs connect all rows and columns that have mass, unless a part of the rows has exactly the mass of a part of
    the columns. Then there are no derivatives, and f, g are NaN.
    """
    used = (matrix > 0).astype(matrix.dtype)
    in_row, in_column = jnp.sum(used, axis=1), jnp.sum(used, axis=0)
    has_row, has_column = jnp.minimum(in_row, 1), jnp.minimum(in_column, 1)
    connected = jnp.sum(used) >= jnp.sum(has_row) + jnp.sum(has_column) - 1
    share = used / jnp.maximum(in_row, 1)[:, None]
    system = jnp.diag(jnp.maximum(in_column, 1)) - product(used.T, share) + has_column[:, None] * has_column[None, :]
    system = jnp.where(connected, system, jnp.eye(system.shape[0], dtype=system.dtype))
    g = jnp.linalg.solve(system, has_column * columns - product(rows, share))
    f = has_row * (rows - product(used, g)) / jnp.maximum(in_row, 1)
    scale = jnp.where(connected, 1, jnp.nan).astype(matrix.dtype)
    return scale * f, scale * g


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def with_slopes(
    solver: str, value: jax.Array, slopes: tuple[jax.Array, ...], variables: tuple[jax.Array, ...]
) -> jax.Array:
    """Return the value, with a slope for each variable: what the envelope theorem gives at the optimum.

    The slopes themselves change with the variables, so a second derivative raises, with the name of the solver.
    """
    return value


@with_slopes.defjvp
def _tangent_of_slopes(solver, primals, tangents):
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
