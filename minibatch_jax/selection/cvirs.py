"""Which unlabeled examples to label next where an example may have several classes: inconsistent and unsure (CVIRS).

An example is inconsistent if the classes predicted for it are unlike those of the labeled examples, and unsure if it
ranks high among the pool in the uncertainty of its classes. The score is the product.

References:
  Reyes, Morell & Ventura, Effective active learning strategy for multi-label learning, Neurocomputing 2018.

Method: category vector inconsistency and ranking (CVIRS)
Experiment: speed strategies
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape, mask_or_all
from minibatch_jax._loops import bind, map_rows
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import product
from minibatch_jax.weights import weight_dtype


def cvirs_scores(
    logits: jax.Array,
    reference_classes: jax.Array,
    *,
    threshold: float | jax.Array = 0.5,
    where: jax.Array | None = None,
    reference_mask: jax.Array | None = None,
    block_size: int = 256,
) -> jax.Array:
    """Return `category_inconsistency` times `uncertainty_ranks`.

    Args:
      logits: `[N, C]`, floating point, of independent classes, one sigmoid each.
      reference_classes: `[L, C]` bool, classes of the labeled examples.
      threshold: probability above which a class is predicted, in [0, 1].
      where: `[N]` bool, which examples are in the pool; the others influence no rank; all by default.
      reference_mask: `[L]` bool, which labeled examples exist; all by default.
      block_size: rows of the pool at a time, static.

    Returns:
      `[N]`, at least 0, float32 (float64 if the logits are); NaN where a logit is NaN, where an example is not in the
      pool, or without a labeled example.

    Raises:
      TypeError: if the logits are not floating point, classes or masks are not bool or the threshold is no number.
      ValueError: if shapes do not match or a number is out of range.

    References:
      Reyes, Morell & Ventura, Neurocomputing 2018.

    Examples:
      >>> logits = jnp.array([[4.0, -4.0, 4.0], [0.2, 0.1, -0.2], [-4.0, 4.0, -4.0]])
      >>> scores = cvirs_scores(logits, jnp.array([[True, False, True]]))
      >>> [round(x, 3) for x in scores.tolist()]
      [0.0, 1.262, 1.0]
    """
    inconsistency = category_inconsistency(
        logits, reference_classes, threshold=threshold, reference_mask=reference_mask, block_size=block_size
    )
    return inconsistency * uncertainty_ranks(logits, where=where)


def category_inconsistency(
    logits: jax.Array,
    reference_classes: jax.Array,
    *,
    threshold: float | jax.Array = 0.5,
    reference_mask: jax.Array | None = None,
    block_size: int = 256,
) -> jax.Array:
    """Return the mean distance of the predicted classes of each example to the classes of the labeled examples.

    The distance of two bit vectors is 1 if all bits differ, else their normalized variation of information,
    `(2 H(a, b) - H(a) - H(b)) / H(a, b)` with the entropies of a bit of each at the same place, and 0 if both are
    constant and equal. O(N L C) time, O(block_size L + N C) memory.

    Args:
      logits: `[N, C]`, floating point, of independent classes, one sigmoid each.
      reference_classes: `[L, C]` bool, classes of the labeled examples.
      threshold: probability above which a class is predicted, in [0, 1].
      reference_mask: `[L]` bool, which labeled examples exist; all by default.
      block_size: rows of the pool at a time, static.

    Returns:
      `[N]`, in [0, 1], float32 (float64 if the logits are); NaN where a logit is NaN or without a labeled example.

    Raises:
      TypeError: if the logits are not floating point, classes or mask are not bool or the threshold is no number.
      ValueError: if shapes do not match or a number is out of range.

    References:
      Reyes, Morell & Ventura, Neurocomputing 2018.

    Examples:
      >>> logits = jnp.array([[4.0, -4.0], [-4.0, 4.0]])
      >>> category_inconsistency(logits, jnp.array([[True, False]])).tolist()
      [0.0, 1.0]
    """
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    check_number("threshold", threshold, 0, 1)
    check_count("block_size", block_size)
    labeled = mask_or_all("reference_classes", reference_classes, (reference_classes.shape[0], logits.shape[1]))
    exists = mask_or_all("reference_mask", reference_mask, labeled.shape[:1])
    dtype = weight_dtype(logits.dtype)
    known = ~jnp.any(jnp.isnan(logits), axis=1)
    predicted = (jax.nn.sigmoid(logits.astype(dtype)) > threshold).astype(dtype)
    distance = bind(_mean_distance, labeled.astype(dtype), exists)
    return jnp.where(known, map_rows(distance, predicted, block_size=block_size), jnp.nan)


def uncertainty_ranks(logits: jax.Array, *, where: jax.Array | None = None) -> jax.Array:
    """Return how high each example of a pool of U ranks in uncertainty, on average over the classes.

    In each class the rank is the number of examples of the pool that are less sure, by `|2 p - 1|`, so that equal ones
    share a rank, and the score is the mean of `(U - rank) / (U - 1)`. It can be computed from a pool only.

    Args:
      logits: `[N, C]`, floating point, of independent classes, one sigmoid each.
      where: `[N]` bool, which examples are in the pool; all by default.

    Returns:
      `[N]`, in [1 / (U - 1), U / (U - 1)], float32 (float64 if the logits are); NaN where a logit is NaN or an example
      is not in the pool. With a single example it is 1.

    Raises:
      TypeError: if the logits are not floating point or `where` is not bool.
      ValueError: if shapes do not match.

    References:
      Reyes, Morell & Ventura, Neurocomputing 2018.

    Examples:
      >>> uncertainty_ranks(jnp.array([[0.1], [-3.0], [0.2]])).tolist()
      [1.5, 0.5, 1.0]
    """
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    dtype = weight_dtype(logits.dtype)
    pool = ~jnp.any(jnp.isnan(logits), axis=1) & mask_or_all("where", where, logits.shape[:1])
    sureness = jnp.where(pool[:, None], jnp.abs(logits).astype(dtype), jnp.inf)  # the order of |2 p - 1|
    ranks = jax.vmap(_number_below, in_axes=1, out_axes=1)(sureness)
    count = jnp.sum(pool, dtype=jnp.int32)
    scores = jnp.mean((count - ranks).astype(dtype), axis=1) / jnp.maximum(count - 1, 1).astype(dtype)
    return jnp.where(pool, scores, jnp.nan)


def _number_below(values):
    return jnp.searchsorted(jnp.sort(values), values, side="left", method="sort").astype(jnp.int32)


def _mean_distance(labeled, exists, bits):
    """Return the mean distance `[]` of one vector of bits `[C]` to those of the labeled examples `[L, C]`."""
    classes = bits.shape[0]
    both = product(labeled, bits)
    first, second = jnp.sum(bits), jnp.sum(labeled, axis=1)
    table = jnp.stack([both, first - both, second - both, classes - first - second + both])
    joint = jnp.sum(jax.scipy.special.entr(table / classes), axis=0)
    separate = jnp.sum(jax.scipy.special.entr(jnp.stack([second, classes - second]) / classes), axis=0)
    separate += jnp.sum(jax.scipy.special.entr(jnp.stack([first, classes - first]) / classes))
    opposite = (both == 0) & (first + second == classes)
    distances = jnp.where(opposite, 1, jnp.where(joint > 0, jnp.maximum(2 * joint - separate, 0) / nonzero(joint), 0))
    number = jnp.sum(exists, dtype=distances.dtype)
    return jnp.where(number > 0, jnp.sum(jnp.where(exists, distances, 0)) / nonzero(number), jnp.nan)
