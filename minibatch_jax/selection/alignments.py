"""Keep or reweigh the examples whose gradients point along a direction, such as that of the loss on trusted data.

References:
  Ren et al., Learning to reweight examples for robust deep learning, ICML 2018 (arXiv 1803.09050).

Method: alignment with a direction
Paper: 1803.09050
Experiment: trusted_direction, speed alignment
"""

import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_count, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import weight_transformation


def keep_by_alignment(k: int) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples whose gradients point furthest along a direction. Signal: `alignments` [B].

    The alignments come from `scores.alignment` or, of the last layer alone, `scores.last_layer_alignment`; divide them
    by the norms of the gradients to rank by the angle. Examples of negative alignment are kept too if there are fewer
    than k others. Ties go to the lowest index. Padding and examples whose alignment is not finite are never kept.

    Args:
      k: how many to keep, 1 <= k <= B, static.

    Returns:
      A transformation over `[B]` weights: the kept ones are unchanged, the others become 0.

    Raises:
      TypeError: if k is not a static int or, in `update`, the alignments are not floating point.
      ValueError: if k < 1 or, in `update`, k > B or the alignments are not `[B]`.

    Examples:
      >>> tx = keep_by_alignment(1)
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), alignments=jnp.array([-3.0, 2.0, 1.0]))[0].tolist()
      [0.0, 1.0, 0.0]
    """
    check_count("k", k)

    def update(weights, state, params=None, *, alignments, **extra_args):
        check_shape("alignments", alignments, weights.shape)
        return jnp.where(topk_mask(alignments, k, where=weights != 0), weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def reweigh_by_alignment() -> optax.GradientTransformationExtraArgs:
    """Weigh each example by how far its gradient points along a direction, none below 0. Signal: `alignments` [B].

    The new weights are in proportion to the old ones times `max(alignment, 0)`, and their sum is the old one. This is
    the step of learning to reweight examples: the weights that lower the loss on trusted data the fastest, for a small
    step. Where no alignment is positive, all weights become 0 and the step does nothing; the kept fraction shows it.

    The direction is the gradient of the loss on the trusted data, and the alignments come from `scores.alignment`.
    Scores of a few examples are noisy: the paper takes as many trusted examples as the batch has.

    Returns:
      A transformation over `[B]` weights. An example whose alignment is not finite gets weight 0.

    Raises:
      TypeError: in `update`, if the alignments are not floating point.
      ValueError: in `update`, if the alignments are not `[B]`.

    References:
      Ren et al., ICML 2018 (arXiv 1803.09050).

    Examples:
      >>> tx = reweigh_by_alignment()
      >>> weights = jnp.full(4, 0.25)
      >>> tx.update(weights, tx.init(weights), alignments=jnp.array([3.0, 1.0, -5.0, jnp.nan]))[0].tolist()
      [0.75, 0.25, 0.0, 0.0]
    """

    def update(weights, state, params=None, *, alignments, **extra_args):
        check_shape("alignments", alignments, weights.shape)
        usable = jnp.isfinite(alignments) & (alignments > 0) & (weights != 0)
        positive = jnp.where(usable, alignments, 0)
        shares = weights * (positive / nonzero(jnp.max(positive))).astype(weights.dtype)  # so that nothing overflows
        return shares * (jnp.sum(weights) / nonzero(jnp.sum(shares))), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)
