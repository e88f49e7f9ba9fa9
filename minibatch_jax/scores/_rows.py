"""How many examples a batch has, and the squared norm of a tree."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax.boundaries.chosen_rows import check_leading_axis
from minibatch_jax.weights import weight_dtype


def num_rows(batch: Any) -> int:
    """Return the number of rows of the first leaf. Raise ValueError if another leaf has more or fewer."""
    leaves = jax.tree.leaves(batch)
    if not leaves or jnp.ndim(leaves[0]) == 0:
        raise ValueError(f"batch has the shapes {jax.tree.map(jnp.shape, batch)}, wanted arrays [B, ...].")
    check_leading_axis("batch", batch, leaves[0].shape[0])
    return leaves[0].shape[0]


def sum_of_squares(tree: Any) -> jax.Array:
    """Return the sum of squares of all floating-point entries, in float32 (float64 for float64)."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    parts = [jnp.sum(jnp.square(x.astype(weight_dtype(x.dtype)))) for x in leaves]
    return functools.reduce(jnp.add, parts, jnp.zeros(()))
