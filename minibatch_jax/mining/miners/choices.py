"""One triplet for each anchor: hard, semi-hard and easy positives and negatives, as columns.

References:
  Schroff et al., FaceNet: a unified embedding for face recognition and clustering, 2015 (arXiv 1503.03832).
  Hermans et al., In defense of the triplet loss for person re-identification, 2017 (arXiv 1703.07737).
  Xuan et al., Improved embeddings with easy positive triplet mining, 2020 (arXiv 1904.04370).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice
from minibatch_jax.mining.miners.pairs import finite_pairs
from minibatch_jax.weights import weight_dtype

KINDS = ("hard", "easy", "semihard")
BLOCK = 32
FALLBACKS = ("drop", "easiest", "hardest")


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
    distances, positives, negatives = prepare(distances, positives, negatives)
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


def check_kinds(positive: str, negative: str, fallback: str) -> None:
    """Raise unless these are choices of `triplet_choice`."""
    check_choice("positive", positive, KINDS)
    check_choice("negative", negative, KINDS[:2] if positive == "semihard" else KINDS)
    check_choice("fallback", fallback, FALLBACKS)


def prepare(distances, positives, negatives):
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    return distances.astype(weight_dtype(distances.dtype)), positives, negatives


def nearest(distances, mask):
    """Return the least masked distance of each row `[A]`, its first column, and whether the row has any."""
    rows, columns = distances.shape
    width = BLOCK if columns % BLOCK == 0 else columns
    blocks = jnp.where(mask, distances, jnp.inf).reshape(rows, columns // width, width)
    lowest = jnp.min(blocks, axis=2)
    least = jnp.min(lowest, axis=1)
    block = _first(lowest, least)  # then look for the column in this block only
    column = block * width + _first(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], least)
    return least, column, least < jnp.inf


def farthest(distances, mask):
    negated, column, exists = nearest(-distances, mask)
    return -negated, column, exists


def nearest_beyond(distances, negatives, reach, fallback):
    """Return the nearest negative farther than `reach` `[A]`, or where there is none what `fallback` says."""
    distance, column, found = nearest(distances, negatives & (distances > reach[:, None]))
    if fallback == "drop":
        return distance, column, found
    other, other_column, exists = (farthest if fallback == "easiest" else nearest)(distances, negatives)
    return jnp.where(found, distance, other), jnp.where(found, column, other_column), exists


def at_column(distances, column):
    return jnp.take_along_axis(distances, column[:, None], axis=1)[:, 0]


def column_numbers(distances):
    return jax.lax.broadcasted_iota(jnp.int32, distances.shape, 1)


def _first(values, wanted):
    """Return the first column of each row that holds the wanted value; faster than `argmin` on a CPU."""
    return jnp.min(jnp.where(values == wanted[:, None], column_numbers(values), values.shape[1] - 1), axis=1)
