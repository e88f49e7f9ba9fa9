"""One triplet for each anchor: hard, semi-hard and easy positives and negatives, as columns.

References:
  Schroff et al., FaceNet: a unified embedding for face recognition and clustering, 2015 (arXiv 1503.03832).
  Hermans et al., In defense of the triplet loss for person re-identification, 2017 (arXiv 1703.07737).
  Xuan et al., Improved embeddings with easy positive triplet mining, 2020 (arXiv 1904.04370).
"""

from typing import NamedTuple

import jax

from minibatch_jax.mining._columns import check_kinds, farthest, nearest, nearest_beyond
from minibatch_jax.mining._pairs import finite_pairs


class Triplets(NamedTuple):
    """One triplet for each anchor.

    Fields:
      positive: `[A]` int32, column of the positive.
      negative: `[A]` int32, column of the negative.
      valid: `[A]` bool, whether the anchor has a triplet; where not, its columns mean nothing.
    """

    positive: jax.Array
    negative: jax.Array
    valid: jax.Array


def triplet_choice(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    positive: str = "hard",
    negative: str = "hard",
    fallback: str = "drop",
) -> Triplets:
    """Choose one triplet for each anchor; ties go to the lowest column.

    Args:
      distances: `[A, M]`, floating point; pairs of non-finite distance are never chosen.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      positive: "hard" (farthest), "easy" (nearest) or "semihard" (farthest of those nearer than the negative).
      negative: "hard" (nearest), "easy" (farthest) or "semihard" (nearest of those farther than the positive); not both
        are semi-hard.
      fallback: where nothing is semi-hard, "drop" the anchor, or take the "easiest" (nearest positive, farthest
        negative) or the "hardest".

    Returns:
      The columns of the triplets, and which anchors have one.

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match or a choice is unknown.

    Examples:
      >>> distances = jnp.array([[0.0, 0.5, 0.4, 0.9]])
      >>> positives, negatives = jnp.array([[False, True, False, False]]), jnp.array([[False, False, True, True]])
      >>> triplet_choice(distances, positives, negatives).negative.tolist()
      [2]
      >>> triplet_choice(distances, positives, negatives, negative="semihard").negative.tolist()
      [3]
    """
    check_kinds(positive, negative, fallback)
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    pick_positive = farthest if positive == "hard" else nearest
    pick_negative = nearest if negative == "hard" else farthest
    if positive == "semihard":
        limit, negative_column, has_negative = pick_negative(distances, negatives)
        _, positive_column, has_positive = nearest_beyond(-distances, positives, -limit, fallback)
    elif negative == "semihard":
        limit, positive_column, has_positive = pick_positive(distances, positives)
        _, negative_column, has_negative = nearest_beyond(distances, negatives, limit, fallback)
    else:
        _, positive_column, has_positive = pick_positive(distances, positives)
        _, negative_column, has_negative = pick_negative(distances, negatives)
    return Triplets(positive_column, negative_column, has_positive & has_negative)
