"""Loss of one mined triplet for each anchor, from embeddings: only the pairs of these triplets are differentiated.

Method: batch-hard, easy-positive, batch-all triplets
Paper: 1703.07737
Experiment: triplet_mining, speed triplets
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_number
from minibatch_jax._loops import bind, given, map_rows
from minibatch_jax.mining._pairs import keeps_dtype
from minibatch_jax.mining._references import references_of, rows_per_block
from minibatch_jax.mining.choices import Triplets, triplet_choice
from minibatch_jax.mining.distances import euclidean_distances
from minibatch_jax.mining.reductions import reduce_losses
from minibatch_jax.weights import weight_dtype


@keeps_dtype
def mined_triplet_loss(
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    references: jax.Array | None = None,
    reference_labels: jax.Array | None = None,
    *,
    positives: jax.Array | None = None,
    negatives: jax.Array | None = None,
    compare: Callable[[jax.Array, jax.Array], jax.Array] = euclidean_distances,
    margin: float | jax.Array = 0.2,
    positive: str = "hard",
    negative: str = "hard",
    fallback: str = "drop",
    smooth: bool = False,
    reduction: str = "active_mean",
    block_size: int = 1024,
    axis_name: str | None = None,
) -> jax.Array:
    """Return the triplet margin loss of one triplet for each anchor, from embeddings, a block of anchors at a time.

    An anchor loses max(d_ap - d_an + margin, 0) of the triplet that `triplet_choice` chooses. By default the value is
    that of `triplet_loss(..., mining="hard")`. Only the distances of the chosen pairs are differentiated, which is
    faster and needs no array `[B, M]`.

    Args:
      embeddings: `[B, D]`, floating point; B is a multiple of the block size, or at most one block. A row with NaN is
        in no triplet.
      labels: `[B]` int, class of each embedding. Several labels an embedding need masks instead.
      references: `[M, D]`, floating point, what the anchors are compared with. By default the embeddings, and then no
        anchor is its own positive.
      reference_labels: `[M]` int, class of each reference; given if and only if references and labels are.
      positives: `[B, M]` bool, True where anchor and reference belong together, in place of labels; cut into blocks
        with the anchors. The pair of an anchor with itself is ignored.
      negatives: `[B, M]` bool, True where they do not belong together; given if and only if the positives are. A pair
        in neither mask is ignored.
      compare: from embeddings `[A, D]` and references `[M, D]`, in float32 at least, to distances `[A, M]`; each
        distance depends on its own pair only.
      margin: finite; differentiable.
      positive: "hard" (farthest), "easy" (nearest) or "semihard" (farthest of those nearer than the negative).
      negative: "hard" (nearest), "easy" (farthest) or "semihard" (nearest of those farther than the positive). Positive
        and negative are not both "semihard".
      fallback: what to do with an anchor for which nothing is semi-hard: "drop" it, or take the "easiest" (nearest
        positive, farthest negative) or the "hardest" (farthest positive, nearest negative).
      smooth: static bool, whether to use log(1 + exp(.)) instead of max(., 0).
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        triplet, defined at `reduce_losses`.
      block_size: static int, anchors at a time; memory is O(block_size M + B D).
      axis_name: axis of a `shard_map` or `pmap` over which embeddings and references are sharded. The anchors of each
        device are compared with the references of all devices, and the loss is reduced over all devices. Masks are
        those of the anchors of a device with the references of all devices.

    Returns:
      `[]`, or `[B]` for "anchors" and "none", in the dtype of the embeddings.

    Raises:
      TypeError: if embeddings or references are not floating point, labels not integers, masks not bool, the margin not
        a number or the block size not a static int.
      ValueError: if shapes do not match, neither or both of labels and masks are given, only one of references and
        reference labels or only one mask is given, a choice is unknown, the margin is NaN, or the block size is below
        1 or does not divide B.

    References:
      Hermans et al., In defense of the triplet loss for person re-identification, 2017 (arXiv 1703.07737).

    Examples:
      >>> x, labels = jnp.array([[0.0], [0.5], [0.6]]), jnp.array([0, 0, 1])
      >>> loss, gradient = jax.value_and_grad(mined_triplet_loss)(x, labels)
      >>> round(float(loss), 3), [round(g, 3) for g in gradient[:, 0].tolist()]  # (0.1 + 0.6) / 2
      (0.35, [-0.5, 1.5, -1.0])

      Several labels an example; the pairs that share one are positive:

      >>> tags = jnp.array([[1, 0, 1], [1, 1, 0], [0, 1, 0]])
      >>> shared = jnp.dot(tags, tags.T) > 0
      >>> round(float(mined_triplet_loss(x, positives=shared, negatives=~shared)), 3)  # (0.1 + 0) / 1
      0.1
    """
    check_number("margin", margin)
    everyone = references_of(
        embeddings, labels, references, reference_labels, positives, negatives, axis_name=axis_name
    )
    rows = rows_per_block(block_size, embeddings.shape[0])
    vectors, others = (x.astype(weight_dtype(x.dtype)) for x in (embeddings, everyone.embeddings))
    queries, fixed = jax.lax.stop_gradient((vectors, others))
    blocks = jax.tree.map(lambda v: v.reshape(-1, rows, *v.shape[1:]), (queries, everyone.anchors))
    kinds = {"positive": positive, "negative": negative, "fallback": fallback}
    choose = bind(given(_choose_triplets, compare), everyone._replace(embeddings=fixed), **kinds)
    chosen = Triplets(*(x.reshape(-1) for x in map_rows(choose, blocks)))
    one_pair = jax.vmap(lambda anchor, other: compare(anchor[None], other[None])[0, 0])
    to_positive, to_negative = (
        jnp.where(chosen.valid, one_pair(vectors, others[column]), 0) for column in (chosen.positive, chosen.negative)
    )
    excess = to_positive - to_negative + margin
    losses = jax.nn.softplus(excess) if smooth else jax.nn.relu(excess)
    return reduce_losses(losses, chosen.valid, reduction, axis_name)


def _choose_triplets(compare, everyone, block, *, positive, negative, fallback):
    queries, anchors = block
    positives, negatives = everyone.masks(anchors)
    distances = compare(queries, everyone.embeddings)
    return triplet_choice(distances, positives, negatives, positive, negative, fallback)
