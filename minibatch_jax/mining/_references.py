"""What a batch of anchors is compared with: itself, the shards of all devices, or other embeddings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_shape
from minibatch_jax.devices import bound_axis


class References(NamedTuple):
    """What the anchors are compared with.

    Attributes:
      embeddings: `[M, D]`, of all devices.
      labels: `[M]` int, class of each reference.
      own_rows: `[A]` int32, the reference that is the anchor itself, or -1.
    """

    embeddings: jax.Array
    labels: jax.Array
    own_rows: jax.Array


def references_of(
    embeddings: jax.Array,
    labels: jax.Array,
    references: jax.Array | None,
    reference_labels: jax.Array | None,
    first_row: int | jax.Array | None = None,
    axis_name: str | None = None,
) -> References:
    """Check embeddings and references, and gather the references over the axis; by default they are the embeddings."""
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    check_shape("labels", labels, embeddings.shape[:1])
    check_integer("labels", labels)
    if (references is None) != (reference_labels is None):
        missing = "references" if references is None else "reference_labels"
        raise ValueError(f"{missing} is None, wanted both references and reference_labels or neither.")
    others = embeddings if references is None else references
    classes = labels if reference_labels is None else reference_labels
    check_shape("references", others, (None, embeddings.shape[1]))
    check_floating("references", others)
    check_shape("reference_labels", classes, others.shape[:1])
    check_integer("reference_labels", classes)
    rows = jnp.arange(labels.shape[0], dtype=jnp.int32)
    if references is not None:
        rows = jnp.full_like(rows, -1) if first_row is None else rows + jnp.asarray(first_row, jnp.int32)
    elif bound_axis(axis_name):
        rows += jax.lax.axis_index(axis_name) * labels.shape[0]
    if bound_axis(axis_name):
        others, classes = (jax.lax.all_gather(x, axis_name, tiled=True) for x in (others, classes))
    return References(others, classes, rows)


def masks_of(labels: jax.Array, own_rows: jax.Array, references: References) -> tuple[jax.Array, jax.Array]:
    """Return the masks of positives and negatives `[rows, M]` of a block of anchors."""
    same = labels[:, None] == references.labels[None, :]
    itself = own_rows[:, None] == jnp.arange(references.labels.shape[0], dtype=jnp.int32)[None, :]
    return same & ~itself, ~same


def rows_per_block(block_size: int, number: int) -> int:
    """Return the block size, or the number of rows if that is smaller; raise unless it divides the number of rows."""
    check_count("block_size", block_size)
    rows = min(block_size, number)
    if number % rows:
        raise ValueError(f"block_size is {block_size}, wanted a divisor of the number of embeddings {number}.")
    return rows
