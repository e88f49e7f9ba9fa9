"""Boundary from weights to rows: the k heaviest rows of a batch, so that only these rows are computed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_shape
from minibatch_jax.weights import Weights


class Taken(NamedTuple):
    """Rows taken from a batch.

    Attributes:
      batch: pytree with leaves `[k, ...]`.
      weights: `[k]`, heaviest first; 0 where fewer than k weights were non-zero.
      indices: `[k]` int32, row of the batch. A slot of weight 0 repeats the heaviest row, and so holds no padding.
    """

    batch: Any
    weights: jax.Array
    indices: jax.Array


def take(batch: Any, weights: Weights, k: int) -> Taken:
    """Take the k rows with the largest weights. Ties go to the lowest index.

    Args:
      batch: pytree of arrays `[B, ...]`.
      weights: `[B]`, at least 0.
      k: how many rows, 1 <= k <= B, static.

    Returns:
      `Taken(batch, weights, indices)` with k rows.

    Raises:
      TypeError: if k is not a static int.
      ValueError: if leading axes differ, or k is not in [1, B].

    Examples:
      >>> rows, weights, indices = take({"x": jnp.arange(3.0)}, jnp.array([0.0, 0.5, 0.2]), 2)
      >>> rows["x"].tolist(), indices.tolist()
      ([1.0, 2.0], [1, 2])
    """
    check_shape("weights", weights, (None,))
    check_count("k", k, weights.shape[0], "the number of rows")
    check_leading_axis("batch", batch, weights.shape[0])
    weights, indices = jax.lax.top_k(weights, k)
    indices = jnp.where(weights > 0, indices, indices[0])
    return Taken(jax.tree.map(lambda x: jnp.asarray(x)[indices], batch), weights, indices)


def check_leading_axis(name: str, tree: Any, rows: int) -> None:
    """Raise ValueError unless every leaf has this many rows."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != rows:
            leaf_name = name + jax.tree_util.keystr(path)
            raise ValueError(f"{leaf_name} has shape {list(jnp.shape(leaf))}, wanted {rows} rows, one for each weight.")
