"""Sums over the mined triplets, one positive of every anchor at a time: O(A M) memory, no scatter."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._loops import bind, while_loop
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax.mining._columns import at_column, column_numbers, farthest, nearest, nearest_beyond
from minibatch_jax.mining.choices import Triplets, triplet_choice

MINING = ("all", "violating", "easy", "semihard", "nearest_semihard", "hard", "easy_positive")

Penalty = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
Condition = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class TripletSums(NamedTuple):
    """Sums over the mined triplets.

    Attributes:
      weights: `[A, M]`, for each pair, the slopes of its triplets: added for a positive, subtracted for a negative.
      loss: `[A]`, sum of the losses of each anchor's triplets.
      active: `[A]`, number of triplets with a positive loss, in the dtype of the distances.
      mined: `[A]`, number of mined triplets, in the dtype of the distances.
    """

    weights: jax.Array
    loss: jax.Array
    active: jax.Array
    mined: jax.Array


def hinge(margin: jax.Array | float, smooth: bool = False) -> Penalty:
    """Return the penalty max(excess + margin, 0), or softplus(excess + margin), with its slope."""
    return bind(_hinge, margin, smooth=smooth)


def _hinge(margin, excess, *, smooth):
    excess = excess + margin
    if smooth:
        return jax.nn.softplus(excess), jax.nn.sigmoid(excess)
    return jnp.maximum(excess, 0), (excess > 0).astype(excess.dtype)


def sum_triplets(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    penalty: Penalty,
    mining: str = "all",
    fallback: str = "drop",
    margin: jax.Array | float = 0.0,
    condition: Condition | None = None,
) -> TripletSums:
    """Return the sums of a penalty of d_ap - d_an, and of its slope, over the mined triplets.

    Args:
      distances: `[A, M]`, floating point, finite.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      penalty: elementwise function of the excesses d_ap - d_an, to their losses and slopes, as `bind` returns it.
      mining: one of `MINING`, the choices of `triplet_loss`.
      fallback: what "semihard", "nearest_semihard" and "easy_positive" do with a positive that no negative is farther
        than: "drop" it, or pair it with the "easiest" (farthest) or the "hardest" (nearest) negative.
      margin: width of the band of "semihard", and how far beyond the positive a negative is for "easy".
      condition: for "all" and "semihard": from the distances `[A, M]`, and the distance `[A]` and the column `[A]` of
        one positive of each anchor, to the negatives `[A, M]` that count with it, bool, as `bind` returns it.

    Returns:
      The sums for each pair and each anchor.
    """
    if mining in ("hard", "easy_positive"):
        kinds = ("hard", "hard") if mining == "hard" else ("easy", "semihard")
        triplets = triplet_choice(distances, positives, negatives, *kinds, fallback)
        return sum_selected(distances, triplets, penalty)
    rows = bind(_sum_all, margin, penalty, condition, mining=mining, fallback=fallback)
    return map_row_blocks(rows, (distances, positives, negatives))


def _sum_all(margin, penalty, condition, distances, positives, negatives, *, mining, fallback):
    pairs = distances, positives, negatives, jnp.where(negatives, distances, jnp.inf)
    step = bind(_add_positive, *pairs, margin, penalty, condition, mining=mining, fallback=fallback)
    start = _next_positive(positives, jnp.full(distances.shape[0], -1, jnp.int32))
    goes_on = bind(_has_column, num_columns=distances.shape[1])
    return while_loop(goes_on, step, (start, _empty(distances)))[1]


def _has_column(carry, *, num_columns):
    return jnp.any(carry[0] < num_columns)


def _next_positive(positives, column):
    columns = column_numbers(positives)
    return jnp.min(jnp.where(positives & (columns > column[:, None]), columns, positives.shape[1]), axis=1)


def _add_positive(distances, positives, negatives, to_negative, margin, penalty, condition, carry, *, mining, fallback):
    """Add the triplets of the positive in one column of each anchor, and go on to its next positive."""
    column, sums = carry
    num_columns = distances.shape[1]
    exists, column_or_last = column < num_columns, jnp.minimum(column, num_columns - 1)
    reach = jnp.where(exists, at_column(distances, column_or_last), jnp.inf)
    if mining == "nearest_semihard":
        _, negative, found = nearest_beyond(distances, negatives, reach, fallback)
        triplets = Triplets(column_or_last, negative, found & exists)
        return _next_positive(positives, column), _add_single(sums, distances, triplets, penalty)
    mined = negatives & exists[:, None]
    if mining == "semihard":
        mined &= (to_negative > reach[:, None]) & (to_negative < (reach + margin)[:, None])
    elif mining == "violating":
        mined &= to_negative <= reach[:, None]
    elif mining == "easy":
        mined &= to_negative > (reach + margin)[:, None]
    if condition is not None:
        mined &= condition(distances, reach, column_or_last)
    sums = _add_many(sums, reach, to_negative, column_or_last, mined, penalty)
    if mining == "semihard" and fallback != "drop":
        _, replacement, found = (farthest if fallback == "easiest" else nearest)(distances, negatives)
        stuck = found & exists & ~jnp.any(negatives & (to_negative > reach[:, None]), axis=1)
        sums = _add_single(sums, distances, Triplets(column_or_last, replacement, stuck), penalty)
    return _next_positive(positives, column), sums


def sum_selected(distances: jax.Array, triplets: Triplets, penalty: Penalty) -> TripletSums:
    """Return the sums of a penalty of d_ap - d_an, and of its slope, over one triplet for each anchor."""
    return _add_single(_empty(distances), distances, triplets, penalty)


def _add_many(sums, reach, to_negative, column, mined, penalty):
    """Add the triplets of one positive and all mined negatives of each anchor."""
    loss, slope = penalty(jnp.where(mined, reach[:, None] - to_negative, 0))
    loss, slope = jnp.where(mined, loss, 0), jnp.where(mined, slope, 0)
    return TripletSums(
        _add_at(sums.weights, column, jnp.sum(slope, axis=1)) - slope,
        sums.loss + jnp.sum(loss, axis=1),
        sums.active + jnp.sum((loss > 0).astype(loss.dtype), axis=1),
        sums.mined + jnp.sum(mined.astype(loss.dtype), axis=1),
    )


def _add_single(sums, distances, triplets, penalty):
    """Add at most one triplet for each anchor."""
    loss, slope = penalty(at_column(distances, triplets.positive) - at_column(distances, triplets.negative))
    loss, slope = jnp.where(triplets.valid, loss, 0), jnp.where(triplets.valid, slope, 0)
    return TripletSums(
        _add_at(_add_at(sums.weights, triplets.positive, slope), triplets.negative, -slope),
        sums.loss + loss,
        sums.active + (loss > 0).astype(loss.dtype),
        sums.mined + triplets.valid.astype(loss.dtype),
    )


def _add_at(weights, column, values):
    """Add one value to a column of each row, by a comparison: XLA on CPU scatters one element at a time.

    On a TPU the comparison fuses with what adds to the weights: half the bytes of a scatter, about the same cycles.
    """
    return weights + jnp.where(column_numbers(weights) == column[:, None], values[:, None], 0)


def _empty(distances) -> TripletSums:
    # Not a constant: inside shard_map the loop's carry must vary over the same axes as the distances.
    zeros = jnp.where(distances < 0, jnp.zeros_like(distances), 0)
    return TripletSums(zeros, zeros[:, 0], zeros[:, 0], zeros[:, 0])
