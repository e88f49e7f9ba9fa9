"""Which unlabeled examples to label next where an example may have several classes, or none.

The logits are those of independent classes, one sigmoid each. The highest scores are to be labeled first.

References:
  Li & Guo, Active learning with multi-label SVM classification, IJCAI 2013.

Method: label cardinality inconsistency, adaptive active learning
Experiment: speed strategies
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_number, check_shape
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation

MARGINS = ("separation", "top_two")
SMALLEST_MARGIN = 0.01


def cardinality_inconsistency(
    logits: jax.Array, mean_labels: float | jax.Array, *, threshold: float | jax.Array = 0.5
) -> jax.Array:
    """Return by how much the number of classes predicted differs from the number that labeled examples have on average.

    Args:
      logits: `[N, C]`, floating point.
      mean_labels: mean number of classes of a labeled example, at least 0.
      threshold: probability above which a class is predicted, in [0, 1].

    Returns:
      `[N]`, at least 0, float32 (float64 if the logits are); NaN where a logit is NaN.

    Raises:
      TypeError: if the logits are not floating point or an argument is not a number.
      ValueError: if the logits are not `[N, C]` or a number is out of range.

    References:
      Li & Guo, IJCAI 2013.

    Examples:
      >>> cardinality_inconsistency(jnp.array([[1.0, 2.0, -1.0], [1.0, -1.0, -1.0]]), 1.25).tolist()
      [0.75, 0.25]
    """
    probabilities = _probabilities(logits, mean_labels, threshold)
    predicted = jnp.sum(probabilities > threshold, axis=1, dtype=probabilities.dtype)
    known = ~jnp.any(jnp.isnan(probabilities), axis=1)
    return jnp.where(known, jnp.abs(predicted - mean_labels), jnp.nan)


def adaptive_inconsistency(
    logits: jax.Array,
    mean_labels: float | jax.Array,
    *,
    balance: float | jax.Array = 0.5,
    margin: str = "separation",
    threshold: float | jax.Array = 0.5,
) -> jax.Array:
    """Return `uncertainty^balance * (1 + inconsistency)^(1 - balance)`, with `cardinality_inconsistency`.

    The uncertainty is 1 over the margin, which counts as 0.01 if it is less.

    Args:
      logits: `[N, C]`, floating point.
      mean_labels: mean number of classes of a labeled example, at least 0.
      balance: 1 for the uncertainty alone, 0 for the inconsistency alone, in [0, 1].
      margin: "separation", the least probability of a predicted class minus the largest of the others, where the
        threshold stands for a side without a class; or "top_two", the difference between the two largest probabilities,
        C >= 2, which Small-Text takes.
      threshold: probability above which a class is predicted, in [0, 1].

    Returns:
      `[N]`, positive, float32 (float64 if the logits are); NaN where a logit is NaN.

    Raises:
      TypeError: if the logits are not floating point or an argument is not a number.
      ValueError: if the logits are not `[N, C]`, a number is out of range, the margin is unknown or there is only one
        class for "top_two".

    References:
      Li & Guo, IJCAI 2013.

    Examples:
      >>> logits = jnp.array([[4.0, 4.0, -4.0], [0.1, -0.1, -4.0]])
      >>> [round(x, 2) for x in adaptive_inconsistency(logits, 1.0).tolist()]
      [1.44, 4.47]
    """
    check_number("balance", balance, 0, 1)
    check_choice("margin", margin, MARGINS)
    probabilities = _probabilities(logits, mean_labels, threshold)
    if margin == "top_two":
        if logits.shape[1] < 2:
            raise ValueError(f"logits has shape {list(logits.shape)}, wanted at least 2 classes.")
        largest, _ = jax.lax.top_k(probabilities, 2)
        width = largest[:, 0] - largest[:, 1]
    else:
        predicted = probabilities > threshold
        least = jnp.min(jnp.where(predicted, probabilities, 1), axis=1)
        largest = jnp.max(jnp.where(predicted, 0, probabilities), axis=1)
        least = jnp.where(jnp.any(predicted, axis=1), least, threshold)
        width = least - jnp.where(jnp.all(predicted, axis=1), threshold, largest)
    inconsistency = cardinality_inconsistency(logits, mean_labels, threshold=threshold)
    uncertainty = 1 / jnp.maximum(width, SMALLEST_MARGIN)
    return (uncertainty**balance * (1 + inconsistency) ** (1 - balance)).astype(probabilities.dtype)


def keep_inconsistent(
    k: int,
    mean_labels: float | jax.Array,
    key: jax.Array | int,
    *,
    balance: float | jax.Array = 0.5,
    margin: str = "separation",
    threshold: float | jax.Array = 0.5,
) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples with the largest `adaptive_inconsistency`, weights unchanged. Signal: `logits` [N, C].

    Over the weights `[N]` of a pool, with 0 for what has labels, these are the next examples to label. Ties are broken
    at random. Examples with a logit that is NaN are never kept. If fewer than k examples have a weight, all of them are
    kept.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      mean_labels: mean number of classes of a labeled example, at least 0.
      key: typed PRNG key or int seed, for the ties.
      balance: 1 for the uncertainty alone, 0 for the inconsistency alone, in [0, 1].
      margin: "separation" of predicted and other classes, or "top_two" for the two largest probabilities.
      threshold: probability above which a class is predicted, in [0, 1].

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if k is not a static int, an argument is no number, the key is no key or, in `update`, the logits are
        not floating point.
      ValueError: if a number is out of range, the margin is unknown or, in `update`, k > N or the logits are not
        `[N, C]`.

    References:
      Li & Guo, IJCAI 2013.

    Examples:
      >>> tx = keep_inconsistent(1, 1.0, key=0)
      >>> logits = jnp.array([[4.0, 4.0, -4.0], [0.1, -0.1, -4.0]])
      >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)), logits=logits)[0].tolist()
      [0.0, 1.0]
    """
    check_count("k", k)
    check_number("mean_labels", mean_labels, 0)
    check_number("balance", balance, 0, 1)
    check_choice("margin", margin, MARGINS)
    check_number("threshold", threshold, 0, 1)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, logits, **extra_args):
        check_shape("logits", logits, (*weights.shape, None))
        next_key, tie_key = jax.random.split(state.rng_key)
        scores = adaptive_inconsistency(logits, mean_labels, balance=balance, margin=margin, threshold=threshold)
        return jnp.where(topk_mask(scores, k, where=weights != 0, key=tie_key), weights, 0), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _probabilities(logits: jax.Array, mean_labels: float | jax.Array, threshold: float | jax.Array) -> jax.Array:
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    check_number("mean_labels", mean_labels, 0)
    check_number("threshold", threshold, 0, 1)
    return jax.nn.sigmoid(logits.astype(weight_dtype(logits.dtype)))
