"""Keep the examples whose loss can still fall: loss of the model minus loss of a reference (RHO-LOSS).

References:
  Mindermann et al., Prioritized training on points that are learnable, worth learning, and not yet learnt, ICML 2022
  (arXiv 2206.07137).

Method: RHO-LOSS
Paper: 2206.07137
Experiment: reducible_loss
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_count, check_floating, check_shape
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import weight_dtype, weight_transformation


def reducible_loss(losses: jax.Array, reference_losses: jax.Array) -> jax.Array:
    """Return the loss under the current model minus the loss under a reference model; it may be negative.

    Args:
      losses: `[B]`, floating point.
      reference_losses: `[B]`, floating point, the irreducible losses: those of a small model trained on held-out data.
        Look them up by the index of the example in its data set, not by its place in the batch.

    Returns:
      `[B]`, float32 (float64 if the losses are); NaN or infinite where either loss is.

    Raises:
      TypeError: if the losses are not floating point.
      ValueError: if the shapes differ.

    Examples:
      >>> reducible_loss(jnp.array([1.0, 3.0]), jnp.array([2.0, 0.5])).tolist()
      [-1.0, 2.5]
    """
    check_shape("losses", losses, (None,))
    check_shape("reference_losses", reference_losses, losses.shape)
    check_floating("losses", losses)
    check_floating("reference_losses", reference_losses)
    dtype = weight_dtype(jnp.promote_types(losses.dtype, reference_losses.dtype))
    return losses.astype(dtype) - reference_losses.astype(dtype)


def keep_by_reducible_loss(k: int) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples with the largest reducible loss (RHO-LOSS). Signals: `losses`, `reference_losses` [B].

    Noisy examples have a high loss under both models and learned ones a low loss, so neither are kept. Ties go to the
    lowest index. Padding and examples with a non-finite loss are never kept. The published setting keeps 32 of 320 with
    equal weights: chain with `normalize()`. Train the reference model on held-out data and select its checkpoint by
    loss, not by accuracy. If that data has wrong labels as well, they are kept again once the model is surer than the
    reference. The scoring pass may run in train or in eval mode (dropout, batch statistics); the published code used
    train mode.

    Args:
      k: how many to keep, 1 <= k <= B, static.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if k is not a static int or, in `update`, losses are not floating point.
      ValueError: if k < 1 or, in `update`, k > B or losses are not `[B]`.

    References:
      Mindermann et al., ICML 2022 (arXiv 2206.07137).

    Examples:
      >>> tx = keep_by_reducible_loss(1)
      >>> losses, reference = jnp.array([5.0, 3.0, 0.1]), jnp.array([4.8, 0.5, 0.1])
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), losses=losses, reference_losses=reference)[0].tolist()
      [0.0, 1.0, 0.0]
    """
    check_count("k", k)

    def update(weights, state, params=None, *, losses, reference_losses, **extra_args):
        check_shape("losses", losses, weights.shape)
        scores = reducible_loss(losses, reference_losses)
        return jnp.where(topk_mask(scores, k, where=weights != 0), weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)
