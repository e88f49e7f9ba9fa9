"""Extremes of a vector and where they are, in loops whose steps do little else.

XLA's own reduction of a short vector takes a CPU up to ten times as long as minima of halves, which it vectorizes.
"""

import jax
import jax.numpy as jnp
from jax import lax

_SHORT = 16
_LONG = 16_384


def first_min(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Minimum and its first index."""
    low, size = vector_min(x), x.shape[0]
    return low, vector_min(jnp.where(x == low, lax.iota(jnp.int32, size), size - 1))


def first_max(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maximum and its first index."""
    low, index = first_min(-x)
    return -low, index


def vector_min(x: jax.Array) -> jax.Array:
    """Minimum of `[N]`: of both halves, which may overlap, at most six times, for the compiler's sake."""
    for _ in range(6 if x.shape[0] <= _LONG else 0):
        if x.shape[0] > _SHORT:
            half = (x.shape[0] + 1) // 2
            x = jnp.minimum(x[:half], x[-half:])
    return jnp.min(x)
