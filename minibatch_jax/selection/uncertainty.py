"""Which unlabeled examples to label next: those that the model is least sure of.

Each function returns one score for each row of a pool, and the highest scores are to be labeled first. Rows that have a
label already, or are padding, get weight 0 in the pool. A logit of minus infinity is a class that is impossible, so
that probabilities can be given by their logarithms.

References:
  Lewis & Gale, A sequential algorithm for training text classifiers, SIGIR 1994.
  Scheffer, Decomain & Wrobel, Active hidden Markov models for information extraction, IDA 2001 (the margin).
  Settles, Craven & Ray, Multiple-instance active learning, NeurIPS 2007 (the expected gradient length).
  Schröder et al., Small-Text: active learning for text classification in Python, EACL 2023 (arXiv 2107.10314).

Method: uncertainty sampling (margin, entropy, least confidence)
Paper: 2107.10314
Experiment: active_texts, speed strategies
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import finite_rows
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation


def least_confidence(logits: jax.Array) -> jax.Array:
    """Return the probability that the likeliest class is wrong.

    Args:
      logits: `[N, C]`, floating point.

    Returns:
      `[N]`, in [0, 1 - 1/C], float32 (float64 if the logits are); NaN where a softmax is NaN.

    Raises:
      TypeError: if the logits are not floating point.
      ValueError: if they are not `[N, C]`.

    Examples:
      >>> least_confidence(jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]))).tolist()
      [0.5, 0.0]
    """
    return jnp.sum(without_top(_probabilities(logits)), axis=1)


def negative_margin(logits: jax.Array) -> jax.Array:
    """Return minus the difference between the probabilities of the two likeliest classes ("breaking ties").

    Args:
      logits: `[N, C]`, floating point, C >= 2.

    Returns:
      `[N]`, in [-1, 0], float32 (float64 if the logits are); NaN where a softmax is NaN.

    Raises:
      TypeError: if the logits are not floating point.
      ValueError: if they are not `[N, C]` or there is only one class.

    Examples:
      >>> negative_margin(jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]))).tolist()
      [0.0, -1.0]
    """
    probabilities = _probabilities(logits)
    if logits.shape[1] < 2:
        raise ValueError(f"logits has shape {list(logits.shape)}, wanted at least 2 classes.")
    largest, _ = jax.lax.top_k(logits.astype(probabilities.dtype), 2)
    return jnp.max(probabilities, axis=1) * jnp.expm1(largest[:, 1] - largest[:, 0])


def prediction_entropy(logits: jax.Array) -> jax.Array:
    """Return the entropy of the predicted class, in nats.

    Args:
      logits: `[N, C]`, floating point.

    Returns:
      `[N]`, in [0, ln C], float32 (float64 if the logits are); NaN where a softmax is NaN.

    Raises:
      TypeError: if the logits are not floating point.
      ValueError: if they are not `[N, C]`.

    Examples:
      >>> entropies = prediction_entropy(jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])))
      >>> [round(x, 4) for x in entropies.tolist()]
      [0.6931, 0.0]
    """
    return jnp.sum(jax.scipy.special.entr(_probabilities(logits)), axis=1)


def expected_gradient_length(logits: jax.Array, features: jax.Array, *, ord: int = 2) -> jax.Array:
    """Return the length that the gradient of the last layer has on average, over the label that the model expects.

    The layer is `logits = features @ kernel + bias` under the cross-entropy. The gradient for the label c is the outer
    product of `softmax(logits) - onehot(c)` with the features and a 1, so its norm needs no backward pass.

    Args:
      logits: `[N, C]`, floating point.
      features: `[N, D]`, floating point, inputs of the last layer.
      ord: 2 for the Euclidean norm, 1 for the sum of the absolute entries.

    Returns:
      `[N]`, float32 (float64 if one of the two is); not finite where a softmax or a feature is not.

    Raises:
      TypeError: if logits or features are not floating point.
      ValueError: if shapes do not match or the order is neither 1 nor 2.

    References:
      Settles, Craven & Ray, NeurIPS 2007.

    Examples:
      >>> expected_gradient_length(jnp.zeros((1, 2)), jnp.zeros((1, 3)), ord=1).tolist()
      [1.0]
    """
    if isinstance(ord, bool) or ord not in (1, 2):
        raise ValueError(f"ord is {ord!r}, wanted 1 or 2.")
    probabilities = _probabilities(logits)
    check_shape("features", features, (logits.shape[0], None))
    check_floating("features", features)
    inputs, finite = finite_rows(features)
    dtype = jnp.promote_types(probabilities.dtype, inputs.dtype)
    probabilities, inputs = probabilities.astype(dtype), inputs.astype(dtype)
    rest = without_top(probabilities)
    missing = jnp.sum(rest, axis=1)
    if ord == 1:
        in_logits = jnp.sum(2 * probabilities * jnp.where(rest == probabilities, 1 - rest, missing[:, None]), axis=1)
        in_inputs = 1 + jnp.sum(jnp.abs(inputs), axis=1)
    else:
        scaled = rest / nonzero(missing)[:, None]  # squares of tiny probabilities would be 0
        of_top = missing * jnp.sqrt(1 + jnp.sum(scaled**2, axis=1))
        squares = jnp.sum(probabilities**2, axis=1, keepdims=True) - 2 * probabilities + 1
        lengths = jnp.where(rest == probabilities, jnp.sqrt(jnp.maximum(squares, 0)), of_top[:, None])
        in_logits = jnp.sum(probabilities * lengths, axis=1)
        in_inputs = jnp.sqrt(1 + jnp.sum(inputs**2, axis=1))
    return jnp.where(finite, in_logits * in_inputs, jnp.nan)


SCORES = {"margin": negative_margin, "least_confidence": least_confidence, "entropy": prediction_entropy}


def keep_uncertain(k: int, key: jax.Array | int, *, score: str = "margin") -> optax.GradientTransformationExtraArgs:
    """Keep the k examples that the model is least sure of, weights unchanged; the others get 0. Signal: `logits`.

    Over the weights `[N]` of a pool, with 0 for what has a label, these are the next examples to label. Ties are broken
    at random. Examples whose softmax is NaN are never kept. If fewer than k examples have a weight, all of them are
    kept. The k are chosen one by one: many of them may be alike, which a diverse choice avoids.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      key: typed PRNG key or int seed, for the ties.
      score: "margin" (breaking ties), "least_confidence" or "entropy". For two classes all three choose the same.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if k is not a static int, the key is no key or, in `update`, the logits are not floating point.
      ValueError: if the score is unknown, k < 1 or, in `update`, k > N or the logits are not `[N, C]`.

    References:
      Schröder et al., EACL 2023 (arXiv 2107.10314).

    Examples:
      >>> tx = keep_uncertain(1, key=0)
      >>> logits = jnp.array([[0.0, 0.1], [0.0, 0.0], [0.0, 3.0]])
      >>> pool = jnp.array([1.0, 0.0, 1.0])
      >>> tx.update(pool, tx.init(pool), logits=logits)[0].tolist()
      [1.0, 0.0, 0.0]
    """
    check_count("k", k)
    check_choice("score", score, tuple(SCORES))
    rng_key = as_key(key)

    def update(weights, state, params=None, *, logits, **extra_args):
        check_shape("logits", logits, (*weights.shape, None))
        next_key, tie_key = jax.random.split(state.rng_key)
        kept = topk_mask(SCORES[score](logits), k, where=weights != 0, key=tie_key)
        return jnp.where(kept, weights, 0), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def without_top(probabilities: jax.Array) -> jax.Array:
    """Return the probabilities `[N, C]` with 0 in place of the largest of each row.

    Their sum tells apart rows that are nearly certain, where 1 minus the largest probability is 0 or a rounding error.
    """
    top = jnp.argmax(probabilities, axis=1, keepdims=True)
    return jnp.where(jnp.arange(probabilities.shape[1])[None] == top, 0, probabilities)


def _probabilities(logits: jax.Array) -> jax.Array:
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    return jax.nn.softmax(logits.astype(weight_dtype(logits.dtype)), axis=1)
