"""Which unlabeled examples to label next: those that the model is least sure of.

Each function returns one score for each row of a pool, and the highest scores are to be labeled first. Rows that have a
label already, or are padding, get weight 0 in the pool. A logit of minus infinity is a class that is impossible, so
that probabilities can be given by their logarithms: `log_probabilities` checks them first.

References:
  Lewis & Gale, A sequential algorithm for training text classifiers, SIGIR 1994.
  Scheffer, Decomain & Wrobel, Active hidden Markov models for information extraction, IDA 2001 (the margin).
  Schröder et al., Small-Text: active learning for text classification in Python, EACL 2023 (arXiv 2107.10314).

Method: uncertainty sampling (margin, entropy, least confidence)
Paper: 2107.10314
Experiment: active_texts, speed strategies
"""

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_shape
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation


def log_probabilities(probabilities: jax.Array) -> jax.Array:
    """Return logits for probabilities, and refuse what are none: the softmax of the result gives them again.

    Outside of `jit` a row that does not sum to 1 raises. Inside, where no value is known, it becomes NaN, so that no
    strategy chooses the example.

    Args:
      probabilities: `[..., C]`, floating point, at least 0, that sum to 1 up to 1e-3 (1e-2 in half precision).

    Returns:
      `[..., C]`, float32 (float64 if the probabilities are): logarithms, minus infinity for 0.

    Raises:
      TypeError: if the probabilities are not floating point.
      ValueError: if they have no axis of classes, are known and negative, or are known and do not sum to 1.

    Examples:
      >>> log_probabilities(jnp.array([[0.5, 0.5], [1.0, 0.0]])).tolist()[1]
      [0.0, -inf]
    """
    if jnp.ndim(probabilities) == 0 or probabilities.shape[-1] == 0:
        raise ValueError(f"probabilities has shape {list(jnp.shape(probabilities))}, wanted [..., C].")
    check_floating("probabilities", probabilities)
    allowed = 1e-2 if probabilities.dtype.itemsize < 4 else 1e-3
    probabilities = jnp.asarray(probabilities, weight_dtype(probabilities.dtype))
    sums = jnp.sum(probabilities, axis=-1, keepdims=True)
    proper = (jnp.abs(sums - 1) <= allowed) & jnp.all(probabilities >= 0, axis=-1, keepdims=True)
    if not isinstance(proper, Tracer) and not bool(jnp.all(proper)):
        row = int(jnp.argmin(proper.ravel()))
        found = probabilities.reshape(-1, probabilities.shape[-1])[row]
        fault = (
            f"sums to {float(jnp.sum(found)):.4g}"
            if bool(jnp.all(found >= 0))
            else f"holds {float(jnp.min(found)):.4g}"
        )
        raise ValueError(f"probabilities[{row}] {fault}, wanted numbers of at least 0 that sum to 1.")
    return jnp.where(proper, jnp.log(probabilities), jnp.nan)


def least_confidence(logits: jax.Array) -> jax.Array:
    """Return the probability that the likeliest class is wrong.

    Args:
      logits: `[N, C]`, floating point, C >= 2.

    Returns:
      `[N]`, in [0, 1 - 1/C], float32 (float64 if the logits are); NaN where a softmax is NaN.

    Raises:
      TypeError: if the logits are not floating point.
      ValueError: if they are not `[N, C]` or there is only one class.

    Examples:
      >>> least_confidence(jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]))).tolist()
      [0.5, 0.0]
    """
    return jnp.sum(without_top(class_probabilities(logits)), axis=1)


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
    probabilities = class_probabilities(logits)
    logits = logits.astype(probabilities.dtype)
    first = jnp.max(logits, axis=1)
    below = jnp.max(jnp.where(logits < first[:, None], logits, -jnp.inf), axis=1)
    second = jnp.where(jnp.sum(logits == first[:, None], axis=1, dtype=jnp.int32) > 1, first, below)
    return jnp.max(probabilities, axis=1) * jnp.expm1(second - first)  # a top_k of rows takes far longer


def prediction_entropy(logits: jax.Array) -> jax.Array:
    """Return the entropy of the predicted class, in nats.

    Args:
      logits: `[N, C]`, floating point, C >= 2.

    Returns:
      `[N]`, in [0, ln C], float32 (float64 if the logits are); NaN where a softmax is NaN.

    Raises:
      TypeError: if the logits are not floating point.
      ValueError: if they are not `[N, C]` or there is only one class.

    Examples:
      >>> entropies = prediction_entropy(jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])))
      >>> [round(x, 4) for x in entropies.tolist()]
      [0.6931, 0.0]
    """
    return jnp.sum(jax.scipy.special.entr(class_probabilities(logits)), axis=1)


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
      ValueError: if the score is unknown, k < 1 or, in `update`, k > N, the logits are not `[N, C]` or there is
        only one class.

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


def class_probabilities(logits: jax.Array) -> jax.Array:
    """Return the softmax `[N, C]` in float32 at least. Raise unless the logits are `[N, C]` of at least two classes."""
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    if logits.shape[1] < 2:
        raise ValueError(f"logits has shape {list(logits.shape)}, wanted at least 2 classes.")
    return jax.nn.softmax(logits.astype(weight_dtype(logits.dtype)), axis=1)
