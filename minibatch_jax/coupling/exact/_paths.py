"""Steps that the exact pairings share: the nearest column, and the flip of an augmenting path."""

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._vector import put, vector_min


def augment(j: jax.Array, pred: jax.Array, columns: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Flip the path that ends in column j back to the free row it began at; nothing if j is -1."""

    def flip(state):
        j, columns, rows = state
        i = pred[j]
        return columns[i], put(columns, i, j), put(rows, j, i)

    return lax.while_loop(lambda s: s[0] >= 0, flip, (j, columns, rows))[1:]


def nearest(x: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Minimum over the columns and its first index, of equal ones a free column before those that have a row."""
    low, size = vector_min(x), x.shape[0]
    order = lax.iota(jnp.int32, size) + jnp.where(rows < 0, 0, size)
    return low, vector_min(jnp.where(x == low, order, 2 * size - 1)) % size
