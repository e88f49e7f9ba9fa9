"""Losses of pairs with a graded similarity that is wanted of each, in place of classes.

Method: regression of similarities
Paper: 1908.10084
Experiment: pairs_that_count, few_shot_texts
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax.mining._pairs import finite_pairs, keeps_dtype
from minibatch_jax.mining.reductions import reduce_losses


@keeps_dtype
def similarity_regression_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    targets: jax.Array | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Return the squared error of the similarity of each pair against the one that is wanted.

    Args:
      similarities: `[A, M]`, floating point, usually cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, pairs that count; without targets those whose similarity should be 1.
      negatives: `[A, M]` bool, pairs that count; without targets those whose similarity should be 0.
      targets: `[A, M]`, floating point, the similarity wanted of each pair, such as a score of people divided by its
        largest value; a pair whose target is not finite is ignored. By default 1 for positives and 0 for negatives.
        Gradients stop here.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of pairs, defined at
        `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities or targets are not floating point or the masks not bool.
      ValueError: if shapes do not match or the reduction is unknown.

    References:
      Reimers & Gurevych, Sentence-BERT, EMNLP 2019 (arXiv 1908.10084).

    Examples:
      >>> every = jnp.ones((1, 2), bool)
      >>> similarities, targets = jnp.array([[0.5, 0.0]]), jnp.array([[1.0, 0.5]])
      >>> float(similarity_regression_loss(similarities, every, ~every, targets=targets))
      0.25
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    if targets is None:
        wanted = positives.astype(similarities.dtype)
    else:
        check_shape("targets", targets, similarities.shape)
        check_floating("targets", targets)
        wanted = jax.lax.stop_gradient(targets).astype(similarities.dtype)
    counted = (positives | negatives) & jnp.isfinite(wanted)
    errors = similarities - jnp.where(counted, wanted, 0)
    return reduce_losses(errors**2, counted, reduction)
