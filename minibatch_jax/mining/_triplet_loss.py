"""Triplets as weights of pairs: which (anchor, positive, negative) count, without an array `[A, P, N]`.

A triplet loss is a function of the distances alone, so its gradient is one weight for each pair: a positive counts as
often as it is in an active triplet, a negative likewise with the other sign. A loop over the positives of the anchors
finds these counts with one pass over `[A, M]` for each, in O(A M) memory.

What others call semi-hard, and the arguments that give it:

  FaceNet, TensorFlow (contrib, addons), sentence-transformers: one negative for each positive pair, the nearest beyond
    the positive, else the farthest negative: `mining="nearest_semihard", fallback="easiest", reduction="mean"`
  pytorch-metric-learning `TripletMarginMiner`: every negative inside the margin: `mining="semihard"`
  pytorch-metric-learning `BatchEasyHardMiner`: one triplet for each anchor:
    `select_triplets(..., positive="easy" or "hard", negative="semihard", fallback="drop")`
  tensorflow-similarity: `select_triplets(..., positive="hard", negative="semihard", fallback="easiest")`

References:
  Schroff et al., FaceNet: a unified embedding for face recognition and clustering, 2015 (arXiv 1503.03832).
  Hermans et al., In defense of the triplet loss for person re-identification, 2017 (arXiv 1703.07737).
  Xuan et al., Improved embeddings with easy positive triplet mining, 2020 (arXiv 1904.04370).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_number
from minibatch_jax.mining._pairs import check_pairs
from minibatch_jax.mining._triplets import (
    FALLBACKS,
    Triplets,
    at_column,
    column_numbers,
    farthest,
    nearest,
    nearest_beyond,
    prepare,
    select_triplets,
)

MINING = ("all", "semihard", "nearest_semihard", "hard", "easy_positive")
REDUCTIONS = ("active_mean", "mean", "anchor_mean", "sum")


def triplet_loss(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 0.2,
    mining: str = "all",
    fallback: str = "drop",
    smooth: bool = False,
    reduction: str = "active_mean",
) -> jax.Array:
    """Triplet margin loss, max(d_ap - d_an + margin, 0) over the mined triplets; differentiable in reverse mode.

    The forward pass finds the gradient as well, so differentiating costs nothing more. Which triplets are mined is
    constant for the gradient.

    Args:
      distances: `[A, M]`, floating point; pairs of non-finite distance take part in no triplet.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      margin: finite; differentiable.
      mining: "all" triplets; "semihard", those with d_ap < d_an < d_ap + margin; "nearest_semihard", for each positive
        pair the nearest negative with d_an > d_ap; "hard", for each anchor its farthest positive and nearest negative;
        "easy_positive", for each anchor its nearest positive and the nearest negative beyond.
      fallback: what the semi-hard kinds and "easy_positive" do with a positive that no negative is farther than:
        "drop" it, or pair it with the "easiest" (farthest) or "hardest" (nearest) negative.
      smooth: use log(1 + exp(.)) instead of max(., 0).
      reduction: "active_mean" over the triplets of positive loss, "mean" over the mined ones, "anchor_mean" over the
        anchors of their own means, or "sum"; the counts are constants for the gradient.

    Returns:
      `[]`, in the dtype of the distances; 0, with gradient 0, where no triplet is active.

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match, a choice is unknown or the margin is not a number.

    Examples:
      >>> distances = jnp.array([[0.0, 0.5, 0.6]])
      >>> positives, negatives = jnp.array([[False, True, False]]), jnp.array([[False, False, True]])
      >>> loss, gradient = jax.value_and_grad(triplet_loss)(distances, positives, negatives)
      >>> round(float(loss), 3), gradient.tolist()
      (0.1, [[0.0, 1.0, -1.0]])
    """
    check_number("margin", margin)
    _check_choices(mining, fallback, reduction)
    check_pairs("distances", distances, positives, negatives)
    used = (positives | negatives) & jnp.isfinite(distances)
    distances = jnp.where(used, distances, 0)
    margin = jnp.where(used[0, 0], jnp.asarray(margin, distances.dtype), margin)  # varies over shards as distances do
    return _loss(distances, positives & used, negatives & used, margin, (mining, fallback, smooth, reduction))


def triplet_pair_weights(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 0.2,
    mining: str = "all",
    fallback: str = "drop",
    smooth: bool = False,
    reduction: str = "active_mean",
) -> tuple[jax.Array, jax.Array]:
    """Value of `triplet_loss` and its derivative by the distances: at least 0 on positives, at most 0 on negatives.

    Args:
      distances: see `triplet_loss`, as all arguments.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      margin: finite, or infinite if only the weights are used: every mined triplet is active then.
      mining: which triplets.
      fallback: what to do without a semi-hard negative.
      smooth: softplus instead of a hinge.
      reduction: over triplets.

    Returns:
      The loss `[]` and the weights `[A, M]`, float32 (float64 if the distances are).

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match or a choice is unknown.

    Examples:
      >>> distances = jnp.array([[0.0, 0.5, 0.6, 0.7, 0.8]])
      >>> positives = jnp.array([[False, True, False, False, False]])
      >>> triplet_pair_weights(distances, positives, distances > 0.5, margin=0.25, reduction="sum")[1].tolist()
      [[0.0, 2.0, -1.0, -1.0, 0.0]]
    """
    check_number("margin", margin)
    _check_choices(mining, fallback, reduction)
    distances, positives, negatives = prepare(distances, positives, negatives)
    margin = jnp.asarray(margin, distances.dtype)
    if mining in ("hard", "easy_positive"):
        negative = "hard" if mining == "hard" else "semihard"
        positive = "hard" if mining == "hard" else "easy"
        triplets = select_triplets(distances, positives, negatives, positive, negative, fallback)
        sums = _add_single(_empty(distances), distances, triplets, margin, smooth)
    else:
        sums = _over_positives(distances, positives, negatives, margin, mining, fallback, smooth)
    return _reduce(sums, reduction)


class _Sums(NamedTuple):
    weights: jax.Array  # [A, M] slope of the loss of each triplet, added up at its two pairs
    loss: jax.Array  # [A]
    active: jax.Array  # [A] triplets of positive loss
    mined: jax.Array  # [A]


def _loss_value(distances, positives, negatives, margin, settings):
    return _loss_forward(distances, positives, negatives, margin, settings)[0]


def _loss_forward(distances, positives, negatives, margin, settings):
    mining, fallback, smooth, reduction = settings
    options = {"mining": mining, "fallback": fallback, "smooth": smooth, "reduction": reduction}
    value, weights = triplet_pair_weights(distances, positives, negatives, margin=margin, **options)
    margin_weight = jnp.sum(weights, where=positives).astype(distances.dtype)
    return value.astype(distances.dtype), (weights.astype(distances.dtype), margin_weight)


def _loss_backward(settings, residuals, cotangent):
    weights, margin_weight = residuals
    return cotangent * weights, None, None, cotangent * margin_weight


_loss = jax.custom_vjp(_loss_value, nondiff_argnums=(4,))
_loss.defvjp(_loss_forward, _loss_backward)


def _over_positives(distances, positives, negatives, margin, mining, fallback, smooth):
    """Sums over the mined triplets, one positive of every anchor at a time."""
    num_columns = distances.shape[1]
    columns = column_numbers(distances)
    to_negative = jnp.where(negatives, distances, jnp.inf)

    def next_positive(column):
        return jnp.min(jnp.where(positives & (columns > column[:, None]), columns, num_columns), axis=1)

    def step(carry):
        column, sums = carry
        exists, column_or_last = column < num_columns, jnp.minimum(column, num_columns - 1)
        reach = jnp.where(exists, at_column(distances, column_or_last), jnp.inf)
        if mining == "nearest_semihard":
            _, negative, found = nearest_beyond(distances, negatives, reach, fallback)
            sums = _add_single(sums, distances, Triplets(column_or_last, negative, found & exists), margin, smooth)
        else:
            mined = negatives & exists[:, None]
            if mining == "semihard":
                mined &= (to_negative > reach[:, None]) & (to_negative < (reach + margin)[:, None])
            sums = _add_many(sums, reach, to_negative, column_or_last, mined, margin, smooth)
            if mining == "semihard" and fallback != "drop":
                pick = farthest if fallback == "easiest" else nearest
                _, replacement, found = pick(distances, negatives)
                stuck = found & exists & ~jnp.any(negatives & (to_negative > reach[:, None]), axis=1)
                sums = _add_single(sums, distances, Triplets(column_or_last, replacement, stuck), margin, smooth)
        return next_positive(column), sums

    start = next_positive(jnp.full(distances.shape[0], -1, jnp.int32))
    return jax.lax.while_loop(lambda carry: jnp.any(carry[0] < num_columns), step, (start, _empty(distances)))[1]


def _add_many(sums, reach, to_negative, column, mined, margin, smooth):
    """Add the triplets of one positive and all mined negatives of each anchor."""
    loss, slope = _hinge((reach + margin)[:, None] - to_negative, smooth)
    loss, slope = jnp.where(mined, loss, 0), jnp.where(mined, slope, 0)
    rows = jnp.arange(column.shape[0])
    return _Sums(
        sums.weights.at[rows, column].add(jnp.sum(slope, axis=1)) - slope,
        sums.loss + jnp.sum(loss, axis=1),
        sums.active + jnp.sum((loss > 0).astype(loss.dtype), axis=1),
        sums.mined + jnp.sum(mined.astype(loss.dtype), axis=1),
    )


def _add_single(sums, distances, triplets, margin, smooth):
    """Add at most one triplet for each anchor."""
    excess = at_column(distances, triplets.positive) - at_column(distances, triplets.negative) + margin
    loss, slope = _hinge(excess, smooth)
    loss, slope = jnp.where(triplets.valid, loss, 0), jnp.where(triplets.valid, slope, 0)
    rows = jnp.arange(slope.shape[0])
    return _Sums(
        sums.weights.at[rows, triplets.positive].add(slope).at[rows, triplets.negative].add(-slope),
        sums.loss + loss,
        sums.active + (loss > 0).astype(loss.dtype),
        sums.mined + triplets.valid.astype(loss.dtype),
    )


def _reduce(sums: _Sums, reduction: str) -> tuple[jax.Array, jax.Array]:
    if reduction == "sum":
        return jnp.sum(sums.loss), sums.weights
    if reduction == "anchor_mean":
        per_anchor = 1 / (
            jnp.maximum(sums.mined, 1) * jnp.maximum(jnp.sum((sums.mined > 0).astype(sums.loss.dtype)), 1)
        )
        return jnp.sum(sums.loss * per_anchor), sums.weights * per_anchor[:, None]
    scale = 1 / jnp.maximum(jnp.sum(sums.active if reduction == "active_mean" else sums.mined), 1)
    return jnp.sum(sums.loss) * scale, sums.weights * scale


def _hinge(excess, smooth):
    if smooth:
        return jax.nn.softplus(excess), jax.nn.sigmoid(excess)
    return jnp.maximum(excess, 0), (excess > 0).astype(excess.dtype)


def _empty(distances) -> _Sums:
    zeros = jnp.where(distances < 0, jnp.zeros_like(distances), 0)  # not a constant: it varies over shards as they do
    return _Sums(zeros, zeros[:, 0], zeros[:, 0], zeros[:, 0])


def _check_choices(mining: str, fallback: str, reduction: str) -> None:
    check_choice("mining", mining, MINING)
    check_choice("fallback", fallback, FALLBACKS)
    check_choice("reduction", reduction, REDUCTIONS)
