"""Which unlabeled examples to label next so that the labels of all classes become equally many.

A strategy that follows the pool labels the common classes. Here the next labels are shared out to the classes that have
the fewest, and each class gets the examples of the pool that the model predicts to be of it and is least sure of. The
predictions are often wrong for a class with few labels: the shares are a wish, not a promise.

References:
  Schröder et al., Small-Text: active learning for text classification in Python, EACL 2023 (arXiv 2107.10314).

Method: class balancer, equal labels for all classes
Paper: 2107.10314
Experiment: active_texts
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_floating,
    check_integer,
    check_shape,
    mask_or_all,
)
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import class_numbers, first_of_groups
from minibatch_jax.selection.uncertainty import SCORES
from minibatch_jax.weights import KeyState, weight_transformation


def class_targets(key: jax.Array | int, label_counts: jax.Array, pool_counts: jax.Array, k: int) -> jax.Array:
    """Share k new labels out to the classes: one at a time to the class that has the fewest, counting those given.

    Ties go to a class at random. A class gets no more than it has examples in the pool.

    Args:
      key: int seed or key.
      label_counts: `[C]` int, how many labels each class has.
      pool_counts: `[C]` int, how many examples of the pool are predicted to be of each class.
      k: how many labels to share out, static.

    Returns:
      `[C]` int32, with the sum k, or that of the pool if it is less.

    Raises:
      TypeError: if counts are not integers, k is not a static int or the key is no key.
      ValueError: if shapes do not match or k < 1.

    Examples:
      >>> class_targets(0, jnp.array([5, 1, 0]), jnp.array([9, 9, 2]), 5).tolist()
      [0, 3, 2]
    """
    check_shape("label_counts", label_counts, (None,))
    check_shape("pool_counts", pool_counts, label_counts.shape)
    check_integer("label_counts", label_counts)
    check_integer("pool_counts", pool_counts)
    check_count("k", k)
    key, counts = as_key(key), label_counts.astype(jnp.int32)
    share = bind(_share_one, key, counts, pool_counts.astype(jnp.int32))
    return fori_loop(0, k, share, jnp.zeros_like(counts))


def top_of_classes(
    scores: jax.Array,
    classes: jax.Array,
    targets: jax.Array,
    *,
    where: jax.Array | None = None,
    key: jax.Array | int | None = None,
) -> jax.Array:
    """Return the mask of the highest scores of each class; non-finite scores are never kept. O(N log N) time.

    Args:
      scores: `[N]`, floating point.
      classes: `[N]` int. An item whose class is not in [0, C) is never kept.
      targets: `[C]` int, how many items of each class to keep.
      where: `[N]` bool, which items may be kept; all by default.
      key: int seed or key that breaks ties at random. By default they go to the lowest index.

    Returns:
      `[N]` bool; a class with fewer items than its target has all of them.

    Raises:
      TypeError: if the scores are not floating point, classes or targets not integers, `where` is not bool or the key
        is no key.
      ValueError: if shapes do not match.

    Examples:
      >>> scores, classes = jnp.array([0.1, 0.9, 0.5, 0.3]), jnp.array([0, 1, 1, 0])
      >>> top_of_classes(scores, classes, jnp.array([1, 2])).tolist()
      [False, True, True, True]
    """
    check_shape("scores", scores, (None,))
    check_floating("scores", scores)
    check_shape("classes", classes, scores.shape)
    check_integer("classes", classes)
    check_shape("targets", targets, (None,))
    check_integer("targets", targets)
    size, number = scores.shape[0], targets.shape[0]
    allowed = jnp.isfinite(scores) & mask_or_all("where", where, scores.shape)
    own = jnp.where(allowed, class_numbers(classes, number), number)
    ties = jnp.arange(size) if key is None else jax.random.permutation(as_key(key), size)
    order = jnp.lexsort((ties, -jnp.where(allowed, scores, 0), own))
    return first_of_groups(own, order, targets)


def keep_by_class_balance(
    k: int, key: jax.Array | int, *, score: str = "margin"
) -> optax.GradientTransformationExtraArgs:
    """Keep k unsure examples, more of those predicted to be of a class with few labels. Signals: `logits` and
    `reference_labels`.

    Kept weights are unchanged. Over the weights `[N]` of a pool, with 0 for what has a label; the references are the
    labeled examples, and one whose label is negative is padding. Examples whose softmax is NaN are never kept. Ties are
    broken at random.

    Args:
      k: how many to keep, 1 <= k <= N, static; all if fewer have a weight.
      key: typed PRNG key or int seed, for the ties.
      score: which examples of a class: "margin", "least_confidence" or "entropy", as in `keep_uncertain`.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if k is not a static int, the key is no key or, in `update`, a signal has another kind of dtype.
      ValueError: if the score is unknown, k < 1 or, in `update`, k > N or the shapes of the signals do not match.

    References:
      Schröder et al., EACL 2023 (arXiv 2107.10314).

    Examples:
      >>> tx = keep_by_class_balance(1, key=0)
      >>> logits = jnp.array([[2.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
      >>> pool, labels = jnp.ones(3), jnp.array([0, 0])
      >>> tx.update(pool, tx.init(pool), logits=logits, reference_labels=labels)[0].tolist()
      [0.0, 0.0, 1.0]
    """
    check_count("k", k)
    check_choice("score", score, tuple(SCORES))
    rng_key = as_key(key)

    def update(weights, state, params=None, *, logits, reference_labels, **extra_args):
        check_shape("logits", logits, (*weights.shape, None))
        check_shape("reference_labels", reference_labels, (None,))
        check_count("k", k, weights.shape[0])
        number = logits.shape[1]
        scores = SCORES[score](logits)
        allowed = (weights != 0) & jnp.isfinite(scores)
        predicted = jnp.where(allowed, jnp.argmax(logits, axis=1).astype(jnp.int32), number)
        next_key, share_key, tie_key = jax.random.split(state.rng_key, 3)
        label_counts = _counts(class_numbers(reference_labels, number), number)
        targets = class_targets(share_key, label_counts, _counts(predicted, number), k)
        kept = top_of_classes(scores, predicted, targets, key=tie_key)
        return jnp.where(kept, weights, 0), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _counts(classes: jax.Array, number: int) -> jax.Array:
    return jnp.zeros(number, jnp.int32).at[classes].add(1, mode="drop")


def _share_one(key, label_counts, pool_counts, t, targets):
    totals = jnp.where(targets < pool_counts, label_counts + targets, jnp.iinfo(jnp.int32).max)
    ties = jax.random.uniform(jax.random.fold_in(key, t), totals.shape)
    chosen = jnp.argmax(jnp.where(totals == jnp.min(totals), ties, -1))
    return targets.at[chosen].add(jnp.where(targets[chosen] < pool_counts[chosen], 1, 0))
