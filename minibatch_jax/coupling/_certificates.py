"""What solvers report of a result: whether it has converged, and a value with a gradient."""

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
