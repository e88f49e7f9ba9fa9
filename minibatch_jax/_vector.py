"""Extremes of a vector and where they are, in loops whose steps do little else.

XLA's own reduction of a short vector takes a CPU up to ten times as long as minima of halves, which it vectorizes.
"""

from collections.abc import Callable

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
    top, size = vector_max(x), x.shape[0]
    return top, vector_min(jnp.where(x == top, lax.iota(jnp.int32, size), size - 1))


def vector_min(x: jax.Array) -> jax.Array:
    """Minimum of `[N]`."""
    return jnp.min(_halve(jnp.minimum, x))


def vector_max(x: jax.Array) -> jax.Array:
    """Maximum of `[N]`."""
    return jnp.max(_halve(jnp.maximum, x))


def _halve(extreme: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Combine both halves, which may overlap, until few are left; at most six times, for the compiler's sake."""
    for _ in range(6 if x.shape[0] <= _LONG else 0):
        if x.shape[0] > _SHORT:
            half = (x.shape[0] + 1) // 2
            x = extreme(x[:half], x[-half:])
    return x
