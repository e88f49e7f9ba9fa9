"""Losses of a large batch, a block of anchors at a time, forward and backward: memory of one block row, not [B, B]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_shape
from minibatch_jax.mining._distances import cosine_similarity


def blockwise_losses(
    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    embeddings: jax.Array,
    labels: jax.Array,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    compare: Callable[[jax.Array, jax.Array], jax.Array] = cosine_similarity,
    block_size: int = 1024,
    first_row: int | jax.Array = 0,
) -> jax.Array:
    """Loss of each anchor against all references, computed again in the backward pass.

    Args:
      loss: of similarities or distances, positives, negatives, each `[block, M]`, to losses `[block]`, such as
        `supcon_loss` with `reduction="none"`.
      embeddings: `[B, D]`, floating point; B is a multiple of the block size, or at most one block.
      labels: `[B]` int.
      references: `[M, D]`, such as the gathered embeddings of all devices; the embeddings by default.
      reference_labels: `[M]` int, given if and only if the references are.
      compare: embeddings `[block, D]` and references `[M, D]` to similarities or distances `[block, M]`.
      block_size: anchors at once, static; memory is O(block_size M).
      first_row: which reference is the first anchor, so that no anchor is its own positive; outside of [0, M) if the
        anchors are not among the references.

    Returns:
      `[B]`, to be reduced with `reduce_losses`.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if shapes do not match or the block size does not divide B.

    Examples:
      >>> from functools import partial
      >>> from minibatch_jax.mining import supcon_loss
      >>> x, labels = jnp.eye(4), jnp.array([0, 0, 1, 1])
      >>> losses = blockwise_losses(partial(supcon_loss, reduction="none"), x, labels, block_size=2)
      >>> round(float(losses.mean()), 4)  # log(3)
      1.0986
    """
    check_shape("embeddings", embeddings, (None, None))
    check_floating("embeddings", embeddings)
    check_shape("labels", labels, embeddings.shape[:1])
    check_integer("labels", labels)
    check_count("block_size", block_size)
    if (references is None) != (reference_labels is None):
        missing = "references" if references is None else "reference_labels"
        raise ValueError(f"{missing} is None, wanted both references and reference_labels or neither.")
    others = embeddings if references is None else references
    classes = labels if reference_labels is None else reference_labels
    check_shape("references", others, (None, embeddings.shape[1]))
    check_shape("reference_labels", classes, others.shape[:1])
    rows = min(block_size, labels.shape[0])
    if labels.shape[0] % rows:
        raise ValueError(f"block_size is {block_size}, wanted a divisor of the number of embeddings {labels.shape[0]}.")

    @jax.checkpoint
    def block(anchors, others):
        vectors, own, numbers = anchors
        same = own[:, None] == classes[None, :]
        itself = numbers[:, None] == jnp.arange(classes.shape[0])[None, :]
        return loss(compare(vectors, others), same & ~itself, ~same)

    numbers = jnp.arange(labels.shape[0]) + first_row
    anchors = jax.tree.map(lambda v: v.reshape(-1, rows, *v.shape[1:]), (embeddings, labels, numbers))
    return jax.lax.map(lambda a: block(a, others), anchors).reshape(-1)
