"""Losses of a large batch, a block of anchors at a time, forward and backward: no array `[B, B]`.

There is no kernel of Pallas for it: the compiler for TPUs fuses the product of a block into the loss and its gradient,
so that not even a block is in memory (the sigmoid loss of 32,768 pairs of two towers: 32 MiB in all, towers included).

Method: blocks of a batch over devices
Experiment: speed mining_memory
"""

from collections.abc import Callable

import jax

from minibatch_jax._loops import bind, given, map_rows
from minibatch_jax.mining._references import references_of, rows_per_block
from minibatch_jax.mining.distances import cosine_similarity
from minibatch_jax.weights import weight_dtype


def blockwise_losses(
    loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    positives: jax.Array | None = None,
    negatives: jax.Array | None = None,
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
        pairs or triplets with `reduction="anchors"`, its hyper-parameters given by `functools.partial`. They may be
        parameters of the model, such as the temperature of `info_nce_loss` or scale and bias of `sigmoid_loss`.
      embeddings: `[B, D]`, floating point; B is a multiple of the block size, or at most one block. A row with NaN is
        in no pair.
      labels: `[B]` int, class of each embedding. Several labels an embedding need masks instead.
      references: `[M, D]`, floating point, what the anchors are compared with. By default the embeddings, and then no
        anchor is its own positive.
      reference_labels: `[M]` int, class of each reference; given if and only if references and labels are.
      positives: `[B, M]` bool, True where anchor and reference belong together, in place of labels; cut into blocks
        with the anchors. The pair of an anchor with itself is ignored.
      negatives: `[B, M]` bool, True where they do not belong together; given if and only if the positives are. A pair
        in neither mask is ignored.
      compare: from embeddings `[block, D]` and references `[M, D]`, in float32 at least, to similarities or distances
        `[block, M]`.
      block_size: static int, anchors at a time; memory is O(block_size M).
      first_row: row of the references that is the first anchor, for references that contain the anchors in order: then
        no anchor is its own positive. By default no reference is an anchor. Without references it is ignored.
      axis_name: axis of a `shard_map` or `pmap` over which embeddings and references are sharded. The anchors of each
        device are compared with the references of all devices. Masks are those of the anchors of a device with the
        references of all devices.

    Returns:
      `[B]`, to be reduced with `reduce_losses`; float32 (float64 if the embeddings are).

    Raises:
      TypeError: if embeddings or references are not floating point, labels not integers, masks not bool or the block
        size not a static int.
      ValueError: if shapes do not match, neither or both of labels and masks are given, only one of references and
        reference labels or only one mask is given, or the block size is below 1 or does not divide B.

    Examples:
      >>> from functools import partial
      >>> from minibatch_jax.mining import supcon_loss
      >>> x, labels = jnp.eye(4), jnp.array([0, 0, 1, 1])
      >>> losses = blockwise_losses(partial(supcon_loss, reduction="anchors"), x, labels, block_size=2)
      >>> round(float(losses.mean()), 4)  # log(3)
      1.0986

      Several labels an example; pairs that share one are positive:

      >>> tags = jnp.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 1]])
      >>> shared = jnp.dot(tags, tags.T) > 0
      >>> loss = partial(supcon_loss, reduction="anchors")
      >>> [round(x, 4) for x in blockwise_losses(loss, x, positives=shared, negatives=~shared).tolist()]
      [1.0986, 1.0986, 1.0986, 1.0986]
    """
    everyone = references_of(
        embeddings, labels, references, reference_labels, positives, negatives, first_row, axis_name
    )
    rows = rows_per_block(block_size, embeddings.shape[0])
    blocks = jax.tree.map(lambda v: v.reshape(-1, rows, *v.shape[1:]), (embeddings, everyone.anchors))
    one = given(given(_losses_of_block, compare), loss)
    return map_rows(bind(one, everyone), blocks).reshape(-1)


def _losses_of_block(compare, loss, everyone, block):
    @jax.checkpoint
    def losses(vectors, anchors, others):
        vectors, others = (x.astype(weight_dtype(x.dtype)) for x in (vectors, others))
        return loss(compare(vectors, others), *everyone.masks(anchors))

    return losses(*block, everyone.embeddings)
