"""Which pairs of anchor and reference are informative: bool masks `[A, M]`, and transformations that keep them.

References:
  Wang et al., Multi-similarity loss with general pair weighting for deep metric learning, 2019 (arXiv 1904.06627).

Method: multi-similarity
Paper: 1904.06627
Experiment: triplet_mining, zero_shot_retrieval
"""

import math

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_number
from minibatch_jax.mining._pairs import finite_pairs
from minibatch_jax.mining.miners._lifts import mine_by_masks

Range = tuple[float | jax.Array, float | jax.Array]
"""The least and the greatest distance of a pair that is kept."""


def multi_similarity_pair_masks(
    similarities: jax.Array, positives: jax.Array, negatives: jax.Array, epsilon: float = 0.1
) -> tuple[jax.Array, jax.Array]:
    """Keep the pairs that the hardest pair of the other kind of the same anchor makes informative.

    A negative is kept if s_n + epsilon > min s_p, the least similar positive of its anchor. A positive is kept if
    s_p - epsilon < max s_n, the most similar negative of its anchor.

    Args:
      similarities: `[A, M]`, floating point, larger is closer; pairs of non-finite similarity are ignored.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      epsilon: slack of the comparison; it may be negative.

    Returns:
      The kept positives and the kept negatives, `[A, M]` bool. An anchor without a positive or without a negative keeps
      none. A pair of a similarity that is not finite does not count.

    Raises:
      TypeError: if the similarities are not floating point.
      ValueError: if shapes do not match.

    Examples:
      >>> s = jnp.array([[1.0, 0.9, 0.3, 0.95, 0.1]])
      >>> positives = jnp.array([[False, True, True, False, False]])
      >>> kept = multi_similarity_pair_masks(s, positives, jnp.array([[False, False, False, True, True]]))
      >>> [mask.astype(int).tolist() for mask in kept]
      [[[0, 1, 1, 0, 0]], [[0, 0, 0, 1, 0]]]
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_number("epsilon", epsilon)
    farthest_positive = jnp.min(similarities, axis=1, keepdims=True, where=positives, initial=jnp.inf)
    nearest_negative = jnp.max(similarities, axis=1, keepdims=True, where=negatives, initial=-jnp.inf)
    return (
        positives & (similarities - epsilon < nearest_negative),
        negatives & (similarities + epsilon > farthest_positive),
    )


def margin_pair_masks(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    positive_margin: float = 0.2,
    negative_margin: float = 0.8,
) -> tuple[jax.Array, jax.Array]:
    """Keep the positives farther than one margin and the negatives nearer than the other.

    Args:
      distances: `[A, M]`, floating point; pairs of non-finite distance are ignored.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      positive_margin: a positive is kept if its distance is larger.
      negative_margin: a negative is kept if its distance is smaller.

    Returns:
      The kept positives and the kept negatives, `[A, M]` bool.

    Raises:
      TypeError: if the distances are not floating point.
      ValueError: if shapes do not match.

    Examples:
      >>> kept = margin_pair_masks(jnp.array([[0.1, 0.5]]), jnp.array([[True, True]]), jnp.array([[False, False]]))
      >>> kept[0].tolist()
      [[False, True]]
    """
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    check_number("positive_margin", positive_margin)
    check_number("negative_margin", negative_margin)
    return positives & (distances > positive_margin), negatives & (distances < negative_margin)


def range_pair_masks(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    positive_range: Range = (-math.inf, math.inf),
    negative_range: Range = (-math.inf, math.inf),
) -> tuple[jax.Array, jax.Array]:
    """Keep the pairs whose distance lies in a range, for example to drop likely wrong labels.

    Very far positives and very near negatives are often mislabeled.

    Args:
      distances: `[A, M]`, floating point; pairs of non-finite distance are ignored.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      positive_range: pair of floats, least and greatest distance of a positive that is kept; all by default.
      negative_range: pair of floats, least and greatest distance of a negative that is kept; all by default.

    Returns:
      The kept positives and the kept negatives, `[A, M]` bool.

    Raises:
      TypeError: if the distances are not floating point or an end of a range is not a number.
      ValueError: if shapes do not match.

    Examples:
      >>> distances, positives = jnp.array([[0.1, 0.2, 0.5]]), jnp.array([[True, False, False]])
      >>> range_pair_masks(distances, positives, ~positives, negative_range=(0.3, jnp.inf))[1].tolist()
      [[False, False, True]]
    """
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    for name, limits in (("positive_range", positive_range), ("negative_range", negative_range)):
        for limit in limits:
            check_number(name, limit)
    return (
        positives & (distances >= positive_range[0]) & (distances <= positive_range[1]),
        negatives & (distances >= negative_range[0]) & (distances <= negative_range[1]),
    )


def mine_multi_similarity(epsilon: float = 0.1) -> optax.GradientTransformationExtraArgs:
    """Keep the pairs that `multi_similarity_pair_masks` keeps. Weights `[A, M]`; signals `distances`, `labels`.

    The similarity of a pair is its negated distance: pass 1 - cosine for the rule of the paper. A pair that enters with
    weight 0 is ignored, so give padding zero rows and columns. A pair of non-finite distance is ignored as well.

    Args:
      epsilon: float, slack of the comparison; it may be negative.

    Returns:
      A transformation of weights `[A, M]`; the weights of all other pairs become 0.

    Raises:
      TypeError: if epsilon is not a number, or, in `update`, a dtype is wrong.
      ValueError: if epsilon is NaN or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_multi_similarity()
      >>> distances = jnp.array([[0.0, 0.5, 0.55], [0.5, 0.0, 0.9], [0.55, 0.9, 0.0]])
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]

      Several labels an example, as masks; the pairs that share one are positive:

      >>> tags = jnp.array([[1, 0], [1, 1], [0, 1]])
      >>> shared = jnp.dot(tags, tags.T) > 0
      >>> masks = {"positives": shared & ~jnp.eye(3, dtype=bool), "negatives": ~shared}
      >>> tx.update(weights, tx.init(weights), distances=distances, **masks)[0].tolist()
      [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]
    """
    check_number("epsilon", epsilon)

    return mine_by_masks(lambda d, p, n: multi_similarity_pair_masks(-d, p, n, epsilon))


def mine_pair_margin(
    positive_margin: float = 0.2, negative_margin: float = 0.8
) -> optax.GradientTransformationExtraArgs:
    """Keep the pairs that `margin_pair_masks` keeps. Weights `[A, M]`; signals `distances`, `labels`.

    A pair that enters with weight 0 or has a non-finite distance is ignored and gets weight 0.

    Args:
      positive_margin: float, a positive is kept if its distance is larger.
      negative_margin: float, a negative is kept if its distance is smaller.

    Returns:
      A transformation of weights `[A, M]`; the weights of all other pairs become 0.

    Raises:
      TypeError: if a margin is not a number, or, in `update`, a dtype is wrong.
      ValueError: if a margin is NaN or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_pair_margin()
      >>> distances = jnp.array([[0.0, 0.5, 0.9], [0.5, 0.0, 0.7], [0.9, 0.7, 0.0]])
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    check_number("positive_margin", positive_margin)
    check_number("negative_margin", negative_margin)

    return mine_by_masks(lambda d, p, n: margin_pair_masks(d, p, n, positive_margin, negative_margin))


def mine_ranges(
    positive_range: Range = (-math.inf, math.inf), negative_range: Range = (-math.inf, math.inf)
) -> optax.GradientTransformationExtraArgs:
    """Keep the pairs that `range_pair_masks` keeps. Weights `[A, M]`; signals `distances`, `labels`.

    Put it first in a chain: the miners after it ignore the pairs that it drops. A pair of non-finite distance is
    dropped as well.

    Args:
      positive_range: pair of floats, least and greatest distance of a positive that is kept; all by default.
      negative_range: pair of floats, least and greatest distance of a negative that is kept; all by default.

    Returns:
      A transformation of weights `[A, M]`; the weights of all other pairs become 0.

    Raises:
      TypeError: if an end of a range is not a number, or, in `update`, a dtype is wrong.
      ValueError: if an end of a range is NaN or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_ranges(negative_range=(0.6, 1.0))
      >>> distances = jnp.array([[0.0, 0.5, 0.9], [0.5, 0.0, 0.7], [0.9, 0.7, 0.0]])
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 1, 2])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    for name, limits in (("positive_range", positive_range), ("negative_range", negative_range)):
        for limit in limits:
            check_number(name, limit)

    return mine_by_masks(lambda d, p, n: range_pair_masks(d, p, n, positive_range, negative_range))
