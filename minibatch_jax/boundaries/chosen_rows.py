"""Boundary from weights to rows: the k heaviest rows of a batch, so that only these rows are computed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_shape
from minibatch_jax.devices import RowsAxis, replicate, taken_rows


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


def take(batch: Any, weights: jax.Array, k: int, *, rows_axis: RowsAxis = None) -> Taken:
    """Take the k rows with the largest weights. Ties go to the lowest index.

    If more than k rows have weight, the weight of the others is lost: give a rule that keeps a random number of rows a
    larger k, and look at `jnp.sum(weights)` before and after.

    On a mesh under `jit` the k rows are spread over the devices as the rows of the batch are, and only they travel.

    Args:
      batch: pytree of arrays `[B, ...]`.
      weights: `[B]`, at least 0.
      k: how many rows, 1 <= k <= B, static; on a mesh a multiple of the number of devices along the rows.
      rows_axis: on a mesh of several Auto axes, the name or names of those along which the rows of the batch lie; ()
        if every device holds all rows.

    Returns:
      `Taken(batch, weights, indices)` with k rows.

    Raises:
      TypeError: if k is not a static int.
      ValueError: if leading axes differ, k is not in [1, B], or the axis of the rows is unclear or does not divide k.

    Examples:
      >>> rows, weights, indices = take({"x": jnp.arange(3.0)}, jnp.array([0.0, 0.5, 0.2]), 2)
      >>> rows["x"].tolist(), indices.tolist()
      ([1.0, 2.0], [1, 2])
    """
    check_shape("weights", weights, (None,))
    check_count("k", k, weights.shape[0], "the number of rows")
    check_leading_axis("batch", batch, weights.shape[0])
    weights, indices = heaviest_rows(weights, k)
    return Taken(jax.tree.map(lambda x: taken_rows(jnp.asarray(x), indices, rows_axis), batch), weights, indices)


def heaviest_rows(weights: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the k largest weights and their indices; a slot of weight 0 gets the index of the heaviest row."""
    weights, indices = jax.lax.top_k(replicate(weights), k)
    return weights, jnp.where(weights > 0, indices, indices[0])


def check_leading_axis(name: str, tree: Any, rows: int) -> None:
    """Raise ValueError unless every leaf has this many rows."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != rows:
            leaf_name = name + jax.tree_util.keystr(path)
            raise ValueError(
                f"{leaf_name} has shape {list(jnp.shape(leaf))}, wanted {rows} rows, one for each weight; what has no "
                "rows, such as a key, is bound to the function or goes in as its state."
            )
