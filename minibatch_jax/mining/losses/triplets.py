"""Triplets as weights of pairs: which (anchor, positive, negative) count, without an array `[A, P, N]`.

A triplet loss depends on the distances alone, so its gradient is one weight for each pair. With a hinge, the weight of
a positive is the number of active triplets that contain it, and the weight of a negative is minus that number. A loop
over the positives of the anchors finds these numbers: one pass over `[A, M]` for each positive, in O(A M) memory.

Libraries mean different things by "semi-hard". These arguments give what each of them does:

  FaceNet, TensorFlow (contrib, addons), sentence-transformers: one negative for each positive pair, the nearest beyond
    the positive, else the farthest negative: `mining="nearest_semihard", fallback="easiest", reduction="mean"`
  pytorch-metric-learning `TripletMarginMiner`: every negative inside the margin: `mining="semihard"`; its "hard" is
    `mining="violating"` here, its "easy" is `mining="easy"`
  pytorch-metric-learning `BatchEasyHardMiner`: one triplet for each anchor:
    `triplet_choice(..., positive="easy" or "hard", negative="semihard", fallback="drop")`
  tensorflow-similarity: `triplet_choice(..., positive="hard", negative="semihard", fallback="easiest")`

Method: semi-hard triplets
Paper: 1503.03832
Experiment: triplet_mining
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_number
from minibatch_jax.mining._columns import FALLBACKS
from minibatch_jax.mining._pairs import check_pairs, finite_pairs
from minibatch_jax.mining.losses._triplet_sums import MINING, TripletSums, hinge, sum_triplets
from minibatch_jax.weights import weight_dtype

_REDUCTIONS = ("active_mean", "mean", "anchor_mean", "sum", "anchors")


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
    """Return the triplet margin loss, max(d_ap - d_an + margin, 0) over the mined triplets.

    It is differentiable in reverse mode only. The forward pass already finds the gradient, so differentiating costs
    nothing more. The gradient treats the choice of triplets as a constant.

    Args:
      distances: `[A, M]`, floating point; a pair whose distance is not finite is in no triplet.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      margin: finite; differentiable.
      mining: which triplets count. "all"; "violating", those with d_an <= d_ap; "semihard", those with d_ap < d_an <
        d_ap + margin; "easy", those with d_an > d_ap + margin, which lose something if `smooth`; "nearest_semihard",
        for each positive pair the nearest negative with d_an > d_ap; "hard", for each anchor its farthest positive and
        nearest negative; "easy_positive", for each anchor its nearest positive and the nearest negative beyond it.
      fallback: what "semihard", "nearest_semihard" and "easy_positive" do with a positive that no negative is farther
        than: "drop" it, or pair it with the "easiest" (farthest) or the "hardest" (nearest) negative.
      smooth: static bool, whether to use log(1 + exp(.)) instead of max(., 0).
      reduction: "active_mean" over the triplets with a positive loss; "mean" over the mined triplets; "anchor_mean",
        which averages over the triplets of each anchor, then over the anchors with a triplet; "sum"; or "anchors", the
        mean of each anchor. The gradient treats the counts as constants.

    Returns:
      `[]`, or `[A]` for "anchors", in the dtype of the distances; 0, with gradient 0, if no triplet is active.

    Raises:
      TypeError: if the distances are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, a choice is unknown or the margin is NaN.

    References:
      Schroff et al., FaceNet: a unified embedding for face recognition and clustering, 2015 (arXiv 1503.03832).
      Hermans et al., In defense of the triplet loss for person re-identification, 2017 (arXiv 1703.07737).
      Xuan et al., Improved embeddings with easy positive triplet mining, 2020 (arXiv 1904.04370).

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
    # Inside shard_map the margin must vary over the same axes as the distances.
    margin = jnp.asarray(margin, weight_dtype(distances.dtype))
    margin = jnp.where(used[0, 0], margin, margin)
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
    """Return the value of `triplet_loss` and its derivative by the distances, one weight for each pair.

    The weights of positives are at least 0, those of negatives at most 0.

    Args:
      distances: `[A, M]`, floating point; a pair whose distance is not finite is in no triplet.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      margin: finite, or infinite if only the weights are used: then every mined triplet is active.
      mining: which triplets count. "all"; "violating", those with d_an <= d_ap; "semihard", those with d_ap < d_an <
        d_ap + margin; "easy", those with d_an > d_ap + margin, which lose something if `smooth`; "nearest_semihard",
        for each positive pair the nearest negative with d_an > d_ap; "hard", for each anchor its farthest positive and
        nearest negative; "easy_positive", for each anchor its nearest positive and the nearest negative beyond it.
      fallback: what "semihard", "nearest_semihard" and "easy_positive" do with a positive that no negative is farther
        than: "drop" it, or pair it with the "easiest" (farthest) or the "hardest" (nearest) negative.
      smooth: static bool, whether to use log(1 + exp(.)) instead of max(., 0).
      reduction: "active_mean" over the triplets with a positive loss; "mean" over the mined triplets; "anchor_mean",
        which averages over the triplets of each anchor, then over the anchors with a triplet; "sum"; or "anchors", the
        mean of each anchor. The gradient treats the counts as constants.

    Returns:
      The loss `[]`, or `[A]` for "anchors", and the weights `[A, M]`, both float32 (float64 if the distances are).

    Raises:
      TypeError: if the distances are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, a choice is unknown or the margin is NaN.

    References:
      Schroff et al., FaceNet: a unified embedding for face recognition and clustering, 2015 (arXiv 1503.03832).
      Hermans et al., In defense of the triplet loss for person re-identification, 2017 (arXiv 1703.07737).
      Xuan et al., Improved embeddings with easy positive triplet mining, 2020 (arXiv 1904.04370).

    Examples:
      >>> distances = jnp.array([[0.0, 0.5, 0.6, 0.7, 0.8]])
      >>> positives = jnp.array([[False, True, False, False, False]])
      >>> triplet_pair_weights(distances, positives, distances > 0.5, margin=0.25, reduction="sum")[1].tolist()
      [[0.0, 2.0, -1.0, -1.0, 0.0]]
    """
    check_number("margin", margin)
    _check_choices(mining, fallback, reduction)
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    margin = jnp.asarray(margin, distances.dtype)
    sums = sum_triplets(distances, positives, negatives, hinge(margin, smooth), mining, fallback, margin)
    return _reduce(sums, reduction)


def _loss_value(distances, positives, negatives, margin, settings):
    return _loss_forward(distances, positives, negatives, margin, settings)[0]


def _loss_forward(distances, positives, negatives, margin, settings):
    mining, fallback, smooth, reduction = settings
    options = {"mining": mining, "fallback": fallback, "smooth": smooth, "reduction": reduction}
    value, weights = triplet_pair_weights(distances, positives, negatives, margin=margin, **options)
    margin_weight = jnp.sum(weights, axis=1, where=positives)
    return value.astype(distances.dtype), (weights.astype(distances.dtype), margin_weight)


def _loss_backward(settings, residuals, cotangent):
    weights, margin_weight = residuals
    rows = jnp.reshape(cotangent, (-1,))  # one for each anchor, or one for all
    slope = jnp.sum(rows.astype(margin_weight.dtype) * margin_weight)
    return rows[:, None] * weights, None, None, slope


_loss = jax.custom_vjp(_loss_value, nondiff_argnums=(4,))
_loss.defvjp(_loss_forward, _loss_backward)


def _reduce(sums: TripletSums, reduction: str) -> tuple[jax.Array, jax.Array]:
    if reduction == "sum":
        return jnp.sum(sums.loss), sums.weights
    if reduction in ("anchor_mean", "anchors"):
        share = 1 / jnp.maximum(sums.mined, 1)
        if reduction == "anchors":
            return sums.loss * share, sums.weights * share[:, None]
        share /= jnp.maximum(jnp.sum((sums.mined > 0).astype(share.dtype)), 1)
        return jnp.sum(sums.loss * share), sums.weights * share[:, None]
    scale = 1 / jnp.maximum(jnp.sum(sums.active if reduction == "active_mean" else sums.mined), 1)
    return jnp.sum(sums.loss) * scale, sums.weights * scale


def _check_choices(mining: str, fallback: str, reduction: str) -> None:
    check_choice("mining", mining, MINING)
    check_choice("fallback", fallback, FALLBACKS)
    check_choice("reduction", reduction, _REDUCTIONS)
