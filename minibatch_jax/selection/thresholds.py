"""Keep the examples whose loss is below a threshold, fixed or running (Adaptive-k): robust to wrong labels.

References:
  Dedeoglu et al., A robust optimization method for label noisy datasets based on adaptive threshold: Adaptive-k,
  Frontiers of Computer Science 18(4), 2024 (arXiv 2203.14165).

Method: Adaptive-k, fixed threshold
Paper: 2203.14165
Experiment: label_noise, quickstart
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_floating, check_number, check_shape, check_whole
from minibatch_jax.weights import weight_dtype, weight_transformation

DECAY = 0.9
SQUARE_DECAY = 0.999
THRESHOLDS = ("ratio", "mean")


class AdaptiveKState(NamedTuple):
    """Running statistics of the mean loss of a batch.

    Attributes:
      mean: `[]`, moving average of the mean loss, started at 0.
      square: `[]`, moving average of its square, started at 0.
      num_batches: `[]` int32, batches seen that had a finite loss, warm-up included.
    """

    mean: jax.Array
    square: jax.Array
    num_batches: jax.Array


def weighted_mean_loss(losses: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the weighted mean of the finite losses; NaN if none of them has a weight.

    Args:
      losses: `[B]`, floating point.
      weights: `[B]`, floating point, at least 0.

    Returns:
      `[]`, dtype of the weights.

    Raises:
      TypeError: if the losses are not floating point.
      ValueError: if shapes do not match.

    Examples:
      >>> float(weighted_mean_loss(jnp.array([1.0, 3.0, jnp.nan]), jnp.array([0.5, 0.5, 0.5])))
      2.0
    """
    check_shape("losses", losses, (None,))
    check_floating("losses", losses)
    check_shape("weights", weights, losses.shape)
    given = weights.dtype
    weights = jnp.where(jnp.isfinite(losses), weights, 0).astype(weight_dtype(given))
    losses = jnp.where(weights != 0, losses.astype(weights.dtype), 0)
    return (jnp.sum(weights * losses) / jnp.sum(weights)).astype(given)


def running_threshold(
    mean: jax.Array, square: jax.Array, num_batches: jax.Array, threshold: str = "ratio"
) -> jax.Array:
    """Return the threshold of Adaptive-k, from the two moving averages of the mean loss of a batch.

    Args:
      mean: `[]`, moving average of the mean loss, decay 0.9, started at 0.
      square: `[]`, moving average of its square, decay 0.999, started at 0.
      num_batches: `[]` int, how many batches the averages hold.
      threshold: "ratio" for `mean / sqrt(square)`, "mean" for the bias-corrected mean, in units of the loss.

    Returns:
      `[]`, dtype of the averages.

    Raises:
      ValueError: if `threshold` is neither "ratio" nor "mean".

    References:
      Dedeoglu et al., 2024 (arXiv 2203.14165).

    Examples:
      >>> round(float(running_threshold(jnp.array(0.1), jnp.array(0.001), jnp.array(1))), 2)
      3.16
      >>> round(float(running_threshold(jnp.array(0.1), jnp.array(0.001), jnp.array(1), "mean")), 2)
      1.0
    """
    check_choice("threshold", threshold, THRESHOLDS)
    given, dtype = mean.dtype, weight_dtype(mean.dtype)
    mean, square = mean.astype(dtype), square.astype(dtype)
    if threshold == "ratio":
        return (mean / (jnp.sqrt(square) + 1e-8)).astype(given)
    return (mean / (1 - DECAY ** jnp.maximum(num_batches, 1).astype(dtype))).astype(given)


def keep_below(threshold: float) -> optax.GradientTransformationExtraArgs:
    """Keep the examples with a loss of at most `threshold`, weights unchanged; the others get 0. Signal: `losses` [B].

    Examples with a non-finite loss are not kept. If no loss is at most the threshold, all weights are 0.

    Args:
      threshold: keep losses of at most this number, in units of the loss.

    Returns:
      A transformation over `[B]` weights that keeps a varying number of examples.

    Raises:
      TypeError: if the threshold is not a number or, in `update`, the losses are not floating point.
      ValueError: if the threshold is NaN or, in `update`, the losses are not `[B]`.

    Examples:
      >>> tx = keep_below(2.0)
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), losses=jnp.array([1.0, 3.0, 2.0]))[0].tolist()
      [1.0, 0.0, 1.0]
    """
    check_number("threshold", threshold)

    def update(weights, state, params=None, *, losses, **extra_args):
        check_shape("losses", losses, weights.shape)
        return _keep_below(weights, losses, threshold), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def keep_by_adaptive_k(
    threshold: str = "ratio", warmup_steps: int = 0, scale: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Keep the examples whose loss is at most a threshold that follows training (Adaptive-k). Signal: `losses` [B].

    The moving averages take the mean loss of the whole batch before filtering, without padding and non-finite losses.
    If no loss is at most the threshold, all weights are 0 and the gradient vanishes. A batch without a finite loss
    leaves the state as it was.

    Warning: the published threshold, "ratio", does not depend on the scale of the loss. For any constant loss it is
    3.16 at the first step, 6.57 at its peak (step 12), then 4.50 (step 50), 3.24 (100), 1.96 (300), 1.26 (1000) and
    1.03 (3000): it approaches 1, whatever the loss is. That suits the cross-entropy of about ten classes, in nats. For
    squared errors, sums over tokens or a thousand classes it keeps everything or nothing, and multiplying the losses by
    10 changes what is kept: use "mean" there, or set `scale`. Warm up first: at initialization the loss of every
    example is about log(classes), which is above 1.

    Args:
      threshold: "ratio" as published, or "mean", the moving average of the mean loss.
      warmup_steps: number of first batches that are kept whole and do not enter the averages, int, at least 0.
      scale: keep losses up to `scale` times the threshold, positive.

    Returns:
      A transformation over `[B]` weights that keeps a varying number of examples; chain with `normalize()` for their
      mean loss.

    Raises:
      TypeError: if `warmup_steps` is not an int or, in `update`, the losses are not floating point.
      ValueError: if `threshold` is neither "ratio" nor "mean", `warmup_steps` is negative or `scale` is not positive.

    References:
      Dedeoglu et al., Adaptive-k, 2024 (arXiv 2203.14165).

    Examples:
      >>> tx = keep_by_adaptive_k("mean")
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), losses=jnp.array([1.0, 3.0, 0.5]))[0].tolist()
      [1.0, 0.0, 1.0]
    """
    check_choice("threshold", threshold, THRESHOLDS)
    check_whole("warmup_steps", warmup_steps)
    check_number("scale", scale, 0, open_low=True)

    def init(weights):
        zero = jnp.zeros((), weights.dtype)
        return AdaptiveKState(zero, zero, jnp.zeros((), jnp.int32))

    def update(weights, state, params=None, *, losses, **extra_args):
        check_shape("losses", losses, weights.shape)
        warmup = jnp.asarray(warmup_steps, jnp.int32)
        warm = state.num_batches >= warmup
        state = _advance(state, weighted_mean_loss(losses, weights), warm)
        threshold_now = running_threshold(state.mean, state.square, state.num_batches - warmup, threshold)
        cut = jnp.asarray(scale, weights.dtype) * threshold_now
        return _keep_below(weights, losses, jnp.where(warm, cut, jnp.inf)), state

    return weight_transformation(init, update)


def _keep_below(weights: jax.Array, losses: jax.Array, threshold: float | jax.Array) -> jax.Array:
    check_floating("losses", losses)
    losses = losses.astype(weights.dtype)
    return jnp.where(jnp.isfinite(losses) & (losses <= threshold), weights, 0)


def _advance(state: AdaptiveKState, mean_loss: jax.Array, warm: jax.Array) -> AdaptiveKState:
    def average(old, new, decay):
        return jnp.where(usable & warm, decay * old + (1 - decay) * new, old)

    usable = jnp.isfinite(mean_loss**2)
    return AdaptiveKState(
        average(state.mean, mean_loss, DECAY),
        average(state.square, mean_loss**2, SQUARE_DECAY),
        state.num_batches + usable.astype(jnp.int32),
    )
