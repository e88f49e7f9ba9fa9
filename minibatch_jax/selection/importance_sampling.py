"""Draw examples with replacement in proportion to a bound on their gradient norm, and correct the weights.

References:
  Katharopoulos & Fleuret, Not all samples are created equal: deep learning with importance sampling, ICML 2018
  (arXiv 1803.00942).

Method: importance sampling by the gradient norm
Paper: 1803.00942
Experiment: quarter_of_a_batch, speed gradient_norms
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.scores.last_layer import last_layer_gradients
from minibatch_jax.weights import weight_dtype, weight_transformation

FLOOR = 1e-12


class ImportanceState(NamedTuple):
    """Expected gain of importance sampling, and the key of the next draw.

    Attributes:
      gain: `[]`, moving average of `variance_reduction`, started at 0.
      rng_key: `[]`, typed PRNG key of the next draw.
    """

    gain: jax.Array
    rng_key: jax.Array


def gradient_norm_bound(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the norm of the cross-entropy's gradient in the logits, which bounds that in the parameters.

    The bound holds up to a constant factor that all examples share.

    Args:
      logits: `[B, C]`, floating point.
      labels: `[B]` int, in [0, C).

    Returns:
      `[B]`, `|softmax(logits) - onehot(labels)|`, float32 (float64 if the logits are), in [0, sqrt(2)].

    Raises:
      TypeError: if the logits are not floating point or the labels not integer.
      ValueError: if shapes do not match.

    References:
      Katharopoulos & Fleuret, ICML 2018 (arXiv 1803.00942).

    Examples:
      >>> round(float(gradient_norm_bound(jnp.zeros((1, 2)), jnp.array([0]))[0]), 4)
      0.7071
    """
    check_shape("labels", labels, (None,))
    return jnp.sqrt(jnp.sum(last_layer_gradients(logits, labels) ** 2, 1))


def importance_probabilities(scores: jax.Array, weights: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Return probabilities in proportion to weight times score.

    Args:
      scores: `[B]`, floating point, at least 0; an item whose score is not finite gets probability 0.
      weights: `[B]`, floating point, at least 0, such as 1/B.
      smoothing: multiple of the mean score that is added to each score, at least 0.

    Returns:
      `[B]`, dtype of the weights, sum 1. If all scores are 0, the probabilities are in proportion to the weights. If
      all weights are 0 or no score is finite, all probabilities are 0.

    Raises:
      TypeError: if the scores are not floating point.
      ValueError: if shapes do not match or the smoothing is negative.

    Examples:
      >>> importance_probabilities(jnp.array([1.0, 3.0]), jnp.array([0.5, 0.5])).tolist()
      [0.25, 0.75]
    """
    check_shape("scores", scores, (None,))
    check_floating("scores", scores)
    check_shape("weights", weights, scores.shape)
    check_number("smoothing", smoothing, 0)
    given = weights.dtype
    weights = jnp.where(jnp.isfinite(scores), weights, 0).astype(weight_dtype(given))
    scores = jnp.maximum(jnp.where(weights != 0, scores.astype(weights.dtype), 0), 0)
    mean = jnp.sum(weights * scores) / nonzero(jnp.sum(weights))
    raw = weights * jnp.maximum(scores / nonzero(mean) + smoothing, FLOOR)
    return (raw / nonzero(jnp.sum(raw))).astype(given)


def variance_reduction(probabilities: jax.Array, weights: jax.Array) -> jax.Array:
    """Return `sqrt(sum p^2 / q)` of the probabilities p and the normalized weights q: how far p is from q.

    A step with importance sampling is worth a step with a batch this many times larger. The published form, with
    uniform weights, is `1 / sqrt(1 - |p - 1/B|^2 / |p|^2)`, which equals `sqrt(B * sum p^2)`.

    Args:
      probabilities: `[B]`, floating point, at least 0, sum 1.
      weights: `[B]`, floating point, at least 0.

    Returns:
      `[]`, float32 (float64 if the probabilities are), at least 1, or 0 if all probabilities are 0.

    Raises:
      ValueError: if shapes do not match.

    References:
      Katharopoulos & Fleuret, ICML 2018 (arXiv 1803.00942).

    Examples:
      >>> float(variance_reduction(jnp.array([1.0, 0.0, 0.0, 0.0]), jnp.ones(4)))
      2.0
    """
    check_shape("probabilities", probabilities, (None,))
    check_shape("weights", weights, probabilities.shape)
    dtype = weight_dtype(probabilities.dtype)
    probabilities, weights = probabilities.astype(dtype), weights.astype(dtype)
    return jnp.sqrt(jnp.sum(weights) * jnp.sum(probabilities**2 / nonzero(weights)))


def importance_counts(key: jax.Array | int, probabilities: jax.Array, k: int) -> jax.Array:
    """Draw k times from B items with replacement, and return how often each item was drawn.

    Sums of probabilities and draws are rounded to about 1e-7 of the sum, in float32: of equal probabilities, by 1 % of
    each for 10^5 items, and by 10 % for 10^6. For so many items, give float64.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      probabilities: `[B]`, floating point, at least 0, of any positive sum.
      k: number of draws, at least 1, static.

    Returns:
      `[B]` int32, summing to k; zeros if all probabilities are 0.

    Raises:
      TypeError: if k is not a static int.
      ValueError: if the probabilities are not `[B]` or k < 1.

    Examples:
      >>> importance_counts(jax.random.key(0), jnp.array([0.0, 1.0, 0.0]), 5).tolist()
      [0, 5, 0]
    """
    check_shape("probabilities", probabilities, (None,))
    check_count("k", k)
    cumulative = jnp.cumsum(probabilities, dtype=weight_dtype(probabilities.dtype))
    draws = cumulative[-1] * (1 - jax.random.uniform(as_key(key), (k,), cumulative.dtype))
    indices = jnp.searchsorted(cumulative, draws)
    return (
        jnp.zeros(probabilities.shape, jnp.int32).at[indices].add((cumulative[-1] > 0).astype(jnp.int32), mode="drop")
    )


def keep_by_importance(
    k: int, key: jax.Array | int, *, threshold: float | None = None, smoothing: float = 0.0, decay: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    """Draw k examples with replacement by the bound on their gradient norms. Signals: `logits` [B, C], `labels` [B].

    The expected weighted gradient is that of the incoming weights: an example drawn c times gets
    `c * weight / (k * probability)`. So do not normalize afterwards. While the moving average of `variance_reduction`
    is at most `threshold`, importance sampling does not pay; k examples are then drawn uniformly without replacement,
    also without bias. An example whose bound is not finite is never drawn. The bound does not hold with label
    smoothing, another loss or batch statistics.

    Args:
      k: number of draws, 1 <= k <= B, static.
      key: typed PRNG key or int seed.
      threshold: sample by importance while the average gain is above this, at least 0. None is (B + 3 k) / (3 k), from
        where the gain pays for the forward pass over B; 0 is always.
      smoothing: multiple of the mean score that is added to each score, at least 0.
      decay: share of the old value in the moving average of the gain, in [0, 1].

    Returns:
      A transformation over `[B]` weights; their mass is kept in expectation only.

    Raises:
      TypeError: if k is not a static int, the key is a raw array or, in `update`, a signal has another dtype.
      ValueError: if a number is out of range or, in `update`, k > B or shapes do not match.

    References:
      Katharopoulos & Fleuret, ICML 2018 (arXiv 1803.00942).

    Examples:
      >>> tx = keep_by_importance(k=1, key=0, threshold=0.0)
      >>> logits, labels = jnp.array([[50.0, 0.0], [0.0, 0.0]]), jnp.array([0, 1])
      >>> weights = jnp.array([0.5, 0.5])
      >>> tx.update(weights, tx.init(weights), logits=logits, labels=labels)[0].tolist()
      [0.0, 0.5]
    """

    def update(weights, state, params=None, *, logits, labels, **extra_args):
        check_shape("logits", logits, (*weights.shape, None))
        return sample(gradient_norm_bound(logits, labels), weights, state)

    init, sample = _sampler(k, key, threshold, smoothing, decay, pass_cost=1)
    return weight_transformation(init, update)


def keep_by_gradient_norm(
    k: int, key: jax.Array | int, *, threshold: float | None = None, smoothing: float = 0.0, decay: float = 0.9
) -> optax.GradientTransformationExtraArgs:
    """Draw k examples with replacement by their gradient norms, whatever the loss. Signal: `gradient_norms` [B].

    No other probabilities give the weighted gradient a smaller variance. The expected weighted gradient is that of the
    incoming weights: an example drawn c times gets `c * weight / (k * probability)`. So do not normalize afterwards.
    While the moving average of `variance_reduction` is at most `threshold`, importance sampling does not pay; k
    examples are then drawn uniformly without replacement, also without bias. An example with a non-finite norm is never
    drawn. `scores.linen_gradient_norms` and `scores.ghost_gradient_norms` compute the norms.

    Args:
      k: number of draws, 1 <= k <= B, static.
      key: typed PRNG key or int seed.
      threshold: sample by importance while the average gain is above this, at least 0. None is (2 B + 3 k) / (3 k),
        from where the gain pays for the norms of B; 0 is always.
      smoothing: multiple of the mean norm that is added to each norm, at least 0.
      decay: share of the old value in the moving average of the gain, in [0, 1].

    Returns:
      A transformation over `[B]` weights; their mass is kept in expectation only.

    Raises:
      TypeError: if k is not a static int, the key is a raw array or, in `update`, the norms are not floating point.
      ValueError: if a number is out of range or, in `update`, k > B or the norms are not `[B]`.

    References:
      Katharopoulos & Fleuret, ICML 2018 (arXiv 1803.00942).

    Examples:
      >>> tx = keep_by_gradient_norm(k=1, key=0, threshold=0.0)
      >>> weights = jnp.array([0.5, 0.5])
      >>> tx.update(weights, tx.init(weights), gradient_norms=jnp.array([0.0, 3.0]))[0].tolist()
      [0.0, 0.5]
    """

    def update(weights, state, params=None, *, gradient_norms, **extra_args):
        check_shape("gradient_norms", gradient_norms, weights.shape)
        check_floating("gradient_norms", gradient_norms)
        return sample(gradient_norms, weights, state)

    init, sample = _sampler(k, key, threshold, smoothing, decay, pass_cost=2)
    return weight_transformation(init, update)


def _sampler(
    k: int, key: jax.Array | int, threshold: float | None, smoothing: float, decay: float, *, pass_cost: int
) -> tuple[Callable, Callable]:
    """Return `init(weights) -> state` and `sample(scores, weights, state) -> (weights, state)`.

    `pass_cost` is the cost of scoring an example; the gradient of an example costs 3.
    """
    check_count("k", k)
    if threshold is not None:
        check_number("threshold", threshold, 0)
    check_number("smoothing", smoothing, 0)
    check_number("decay", decay, 0, 1)
    rng_key = as_key(key)

    def init(weights):
        return ImportanceState(jnp.zeros((), weights.dtype), rng_key)

    def sample(scores, weights, state):
        check_count("k", k, weights.shape[0], "the number of weights")
        weights = jnp.where(jnp.isfinite(scores), weights, 0)
        probabilities = importance_probabilities(scores, weights, smoothing)
        now = variance_reduction(probabilities, weights)
        gain = jnp.where(now > 0, decay * state.gain + (1 - decay) * now, state.gain)
        next_key, draw_key = jax.random.split(state.rng_key)
        counts = importance_counts(draw_key, probabilities, k).astype(weights.dtype)
        drawn = counts * weights / (k * nonzero(probabilities))
        pays = gain > ((pass_cost * weights.shape[0] + 3 * k) / (3 * k) if threshold is None else threshold)
        kept = jnp.where(pays, drawn, _uniform_sample(draw_key, weights, k))
        return kept, ImportanceState(gain, next_key)

    return init, sample


def _uniform_sample(key: jax.Array, weights: jax.Array, k: int) -> jax.Array:
    present = weights != 0
    order = jnp.where(present, jax.random.uniform(key, weights.shape, weights.dtype), -1)
    _, indices = jax.lax.top_k(order, k)
    count = jnp.sum(present, dtype=weights.dtype)
    kept = jnp.zeros_like(weights).at[indices].set(weights[indices])
    return kept * jnp.maximum(count / k, 1)
