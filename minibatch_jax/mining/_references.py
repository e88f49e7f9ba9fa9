"""What a batch of anchors is compared with, and which pairs are positive and negative, by labels or by masks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_bool, check_count, check_floating, check_integer, check_shape
from minibatch_jax.devices import bound_axis


class Anchors(NamedTuple):
    """What tells the pairs of anchors; each array has one entry for each anchor, so blocks of rows can be cut.

    Attributes:
      own_rows: `[A]` int32, the reference that is the anchor itself, or -1.
      labels: `[A]` int, or None where masks are given.
      positives: `[A, M]` bool, or None where labels are given.
      negatives: `[A, M]` bool, or None where labels are given.
    """

    own_rows: jax.Array
    labels: jax.Array | None
    positives: jax.Array | None
    negatives: jax.Array | None


class References(NamedTuple):
    """What the anchors are compared with.

    Attributes:
      embeddings: `[M, D]`, of all devices.
      labels: `[M]` int, class of each reference; None where masks are given.
      anchors: what tells the pairs of each anchor of this device.
    """

    embeddings: jax.Array
    labels: jax.Array | None
    anchors: Anchors

    def masks(self, anchors: Anchors) -> tuple[jax.Array, jax.Array]:
        """Return the masks of positives and negatives `[rows, M]` of a block of anchors."""
        return jax.vmap(self.masks_of_one)(anchors)

    def masks_of_one(self, anchor: Anchors) -> tuple[jax.Array, jax.Array]:
        """Return the masks of positives and negatives `[M]` of one anchor, which is in no pair with itself."""
        others = jnp.arange(self.embeddings.shape[0], dtype=jnp.int32) != anchor.own_rows
        if anchor.positives is not None and anchor.negatives is not None:
            return anchor.positives & others, anchor.negatives & others
        same = self.labels == anchor.labels
        return same & others, ~same


def references_of(
    embeddings: jax.Array,
    labels: jax.Array | None,
    references: jax.Array | None,
    reference_labels: jax.Array | None,
    positives: jax.Array | None,
    negatives: jax.Array | None,
    first_row: int | jax.Array | None = None,
    axis_name: str | None = None,
) -> References:
    """Check all arguments, and gather the references over the axis; by default they are the embeddings."""
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    by_labels = not isinstance(labels_or_masks(labels, positives, negatives), tuple)
    if by_labels and (references is None) != (reference_labels is None):
        missing = "references" if references is None else "reference_labels"
        raise ValueError(f"{missing} is None, wanted both references and reference_labels or neither.")
    if not by_labels and reference_labels is not None:
        raise ValueError("reference_labels is given with positives and negatives, wanted labels or masks, not both.")
    others = embeddings if references is None else references
    classes = labels if reference_labels is None else reference_labels
    check_shape("references", others, (None, embeddings.shape[1]))
    check_floating("references", others)
    for name, given, wanted in (("labels", labels, embeddings), ("reference_labels", classes, others)):
        if given is not None:
            check_shape(name, given, wanted.shape[:1])
            check_integer(name, given)
    own_rows = jnp.arange(embeddings.shape[0], dtype=jnp.int32)
    if references is not None:
        own_rows = jnp.full_like(own_rows, -1) if first_row is None else own_rows + jnp.asarray(first_row, jnp.int32)
    elif bound_axis(axis_name):
        own_rows += jax.lax.axis_index(axis_name) * embeddings.shape[0]
    if bound_axis(axis_name):
        others, classes = jax.tree.map(lambda x: jax.lax.all_gather(x, axis_name, tiled=True), (others, classes))
    for name, mask in (("positives", positives), ("negatives", negatives)):
        if mask is not None:
            check_shape(name, mask, (embeddings.shape[0], others.shape[0]))
            check_bool(name, mask)
    return References(others, classes, Anchors(own_rows, labels, positives, negatives))


def labels_or_masks(
    labels: jax.Array | None, positives: jax.Array | None, negatives: jax.Array | None
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Return the labels, or both masks where they are given instead; raise unless it is one of them."""
    masks = {"positives": positives, "negatives": negatives}
    given = [name for name, mask in masks.items() if mask is not None]
    if labels is not None:
        if given:
            raise ValueError(f"labels and {' and '.join(given)} are given, wanted labels, or positives and negatives.")
        return labels
    if positives is None and negatives is None:
        raise ValueError("labels is None, wanted labels, or positives and negatives.")
    if positives is None or negatives is None:
        missing = "positives" if positives is None else "negatives"
        raise ValueError(f"{missing} is None, wanted both positives and negatives.")
    return positives, negatives


def rows_per_block(block_size: int, number: int) -> int:
    """Return the block size, or the number of rows if that is smaller; raise unless it divides the number of rows."""
    check_count("block_size", block_size)
    rows = min(block_size, number)
    if number % rows:
        raise ValueError(f"block_size is {block_size}, wanted a divisor of the number of embeddings {number}.")
    return rows
