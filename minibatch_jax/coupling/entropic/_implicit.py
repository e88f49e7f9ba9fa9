"""Derivatives of an entropic plan by the equations of its marginals, of every order, in both modes.

The plan is `exp((f + g - cost) / epsilon)`, so `dP = P (df + dg - dC) / epsilon`. The marginals ask for
`dP 1 = da` and `dP^T 1 = db`: linear equations for df and dg, of which df is eliminated.
"""

import jax
import jax.numpy as jnp

from minibatch_jax.coupling._sinkhorn_loop import log_where
from minibatch_jax.geometry import product


@jax.custom_jvp
def implicit_plan(
    cost: jax.Array, a: jax.Array, b: jax.Array, epsilon: jax.Array, f: jax.Array, g: jax.Array, matrix: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return f, g and the plan `matrix` of a solver, with derivatives in the cost and the masses a and b.

    The others are constants. All must be finite; where the plan is 0, the cost has no derivative.
    """
    return f, g, matrix


@implicit_plan.defjvp
def _implicit_tangents(primals, tangents):
    _, a, b, epsilon, *_ = primals
    f, g, matrix = implicit_plan(*primals)
    d_cost, d_a, d_b, *_ = tangents
    pull = matrix * d_cost
    rows, columns = jnp.sum(matrix, axis=1), jnp.sum(matrix, axis=0)
    rows, safe = jnp.where(rows > 0, rows, 1), jnp.where(columns > 0, columns, 1)
    row = jnp.where(a > 0, epsilon * d_a, 0) + jnp.sum(pull, axis=1)
    column = jnp.where(b > 0, epsilon * d_b, 0) + jnp.sum(pull, axis=0)
    share = matrix / rows[:, None]
    system = jnp.diag(safe) - product(matrix.T, share)
    mass = jnp.sum(columns)
    system += columns[:, None] * columns[None, :] / jnp.where(mass > 0, mass, 1)
    d_g = jnp.linalg.solve(system, column - product(row, share))
    d_f = (row - product(matrix, d_g)) / rows
    d_matrix = (matrix * (d_f[:, None] + d_g[None, :]) - pull) / epsilon
    return (f, g, matrix), (jnp.where(a > 0, d_f, 0), jnp.where(b > 0, d_g, 0), d_matrix)


@jax.custom_jvp
def optimal_value(
    value: jax.Array,
    cost: jax.Array,
    a: jax.Array,
    b: jax.Array,
    epsilon: jax.Array,
    f: jax.Array,
    g: jax.Array,
    matrix: jax.Array,
) -> jax.Array:
    """Return the optimum `value` with derivatives: the plan for the cost, and prices for the masses a and b."""
    return value


@optimal_value.defjvp
def _value_tangent(primals, tangents):
    value, _, a, b, epsilon, *_ = primals
    f, g, matrix = implicit_plan(*primals[1:])
    _, d_cost, d_a, d_b, *_ = tangents
    tangent = jnp.sum(matrix * d_cost)
    for prices, mass, d_mass in ((f, a, d_a), (g, b, d_b)):
        tangent += jnp.sum((prices - epsilon * log_where(mass, mass)) * d_mass)
    return value, tangent
