"""Losses of a large batch, a block of anchors at a time, forward and backward: no array `[B, B]`.

Method: blocks of a batch over devices
Experiment: speed mining_memory
"""

from collections.abc import Callable

import jax

from minibatch_jax.mining._references import masks_of, references_of, rows_per_block
from minibatch_jax.mining.distances import cosine_similarity


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
    """Return the loss of each anchor against all references, computed a block of anchors at a time.

    The backward pass computes each block again, so memory is that of one block. A miner that looks at one anchor at a
    time may be part of the loss. Four losses are not sums over anchors, so their value depends on the blocks:
    `histogram_loss`, `lifted_structure_loss`, `intra_pair_variance_loss` and `proxy_anchor_loss`.

    Args:
      loss: from similarities or distances, positives and negatives, each `[block, M]`, to losses `[block]`: any loss of
        pairs or triplets with `reduction="anchors"`.
      embeddings: `[B, D]`, floating point; B is a multiple of the block size, or at most one block. A row with NaN is
        in no pair.
      labels: `[B]` int, class of each embedding.
      references: `[M, D]`, floating point, what the anchors are compared with. By default the embeddings, and then no
        anchor is its own positive.
      reference_labels: `[M]` int, class of each reference; given if and only if the references are.
      compare: from embeddings `[block, D]` and references `[M, D]` to similarities or distances `[block, M]`.
      block_size: static int, anchors at a time; memory is O(block_size M).
      first_row: row of the references that is the first anchor, for references that contain the anchors in order: then
        no anchor is its own positive. By default no reference is an anchor. Without references it is ignored.
      axis_name: axis of a `shard_map` or `pmap` over which embeddings and references are sharded. The anchors of each
        device are compared with the references of all devices.

    Returns:
      `[B]`, to be reduced with `reduce_losses`.

    Raises:
      TypeError: if embeddings or references are not floating point, labels not integers or the block size not a static
        int.
      ValueError: if shapes do not match, only one of references and reference labels is given, or the block size is
        below 1 or does not divide B.

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
