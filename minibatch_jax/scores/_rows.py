"""How many examples a batch has."""

from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax.boundaries.chosen_rows import check_leading_axis


def num_rows(batch: Any) -> int:
    """Return the number of rows of the first leaf. Raise ValueError if another leaf has more or fewer."""
    leaves = jax.tree.leaves(batch)
    if not leaves or jnp.ndim(leaves[0]) == 0:
        raise ValueError(f"batch has the shapes {jax.tree.map(jnp.shape, batch)}, wanted arrays [B, ...].")
    check_leading_axis("batch", batch, leaves[0].shape[0])
    return leaves[0].shape[0]
