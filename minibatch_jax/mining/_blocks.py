"""Losses of a large batch, a block of anchors at a time, forward and backward: memory of one block row, not [B, B]."""

from collections.abc import Callable

import jax

from minibatch_jax.mining._distances import cosine_similarity
from minibatch_jax.mining._references import masks_of, references_of, rows_per_block


def blockwise_losses(
    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    embeddings: jax.Array,
    labels: jax.Array,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    compare: Callable[[jax.Array, jax.Array], jax.Array] = cosine_similarity,
    block_size: int = 1024,
    first_row: int | jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Loss of each anchor against all references, computed again in the backward pass.

    A miner that looks at one anchor at a time may be part of the loss. Four losses are no sums over anchors and differ
    in blocks: `histogram_loss`, `lifted_structure_loss`, `intra_pair_variance_loss` and `proxy_anchor_loss`.

    Args:
      loss: of similarities or distances, positives, negatives, each `[block, M]`, to losses `[block]`: any loss of
        pairs or triplets with `reduction="anchors"`.
      embeddings: `[B, D]`, floating point; B is a multiple of the block size, or at most one block. A row of NaN is in
        no pair.
      labels: `[B]` int.
      references: `[M, D]`; the embeddings by default.
      reference_labels: `[M]` int, given if and only if the references are.
      compare: embeddings `[block, D]` and references `[M, D]` to similarities or distances `[block, M]`.
      block_size: anchors at once, static; memory is O(block_size M).
      first_row: which reference is the first anchor, so that no anchor is its own positive, if references are given and
        the anchors are among them.
      axis_name: of a `shard_map` or `pmap` over which embeddings and references are sharded: the anchors of a device
        are compared with the references of all.

    Returns:
      `[B]`, to be reduced with `reduce_losses`.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if shapes do not match or the block size does not divide B.

    Examples:
      >>> from functools import partial
      >>> from minibatch_jax.mining import supcon_loss
      >>> x, labels = jnp.eye(4), jnp.array([0, 0, 1, 1])
      >>> losses = blockwise_losses(partial(supcon_loss, reduction="anchors"), x, labels, block_size=2)
      >>> round(float(losses.mean()), 4)  # log(3)
      1.0986
    """
    everyone = references_of(embeddings, labels, references, reference_labels, first_row, axis_name)
    rows = rows_per_block(block_size, labels.shape[0])

    @jax.checkpoint
    def block(anchors, others):
        vectors, classes, own_rows = anchors
        return loss(compare(vectors, others), *masks_of(classes, own_rows, everyone))

    anchors = (embeddings, labels, everyone.own_rows)
    blocks = jax.tree.map(lambda v: v.reshape(-1, rows, *v.shape[1:]), anchors)
    return jax.lax.map(lambda a: block(a, everyone.embeddings), blocks).reshape(-1)
