"""Losses of pairs that are linear or quadratic beyond margins, sharply or smoothly (binomial deviance, sigmoid).

Method: losses of margins: margin, binomial deviance, sigmoid, ranked list, intra-pair variance, threshold-consistent
Paper: 1706.07567, 1407.4979, 2303.15343, 1903.03238, 2307.04047
Experiment: speed mining_table, zero_shot_retrieval
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_number
from minibatch_jax._loops import bind
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax.mining._pairs import check_positive, finite_pairs, keeps_dtype
from minibatch_jax.mining._row_losses import reduce_row_blocks
from minibatch_jax.mining.losses._exponentials import exp_weighted_mean, softplus_where
from minibatch_jax.mining.reductions import reduce_losses


@keeps_dtype
def margin_loss(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 0.2,
    boundary: float | jax.Array = 1.2,
    reduction: str = "active_mean",
) -> jax.Array:
    """Return the margin loss: positives stay inside a boundary, negatives outside, both by a margin.

    A positive loses [d - boundary + margin]_+ and a negative [boundary - d + margin]_+. Both kinds are reduced
    together.

    Args:
      distances: `[A, M]`, floating point; a pair whose distance is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart, usually those that `sample_negative_counts` draws.
      margin: half the width of the gap around the boundary; differentiable.
      boundary: distance that separates positives from negatives, a number or `[A, 1]` with the boundary of each
        anchor's class; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of pairs, defined at
        `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the distances.

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match or the reduction is unknown.

    References:
      Wu et al., Sampling matters in deep embedding learning, 2017 (arXiv 1706.07567).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> float(margin_loss(jnp.array([[1.5, 0.75]]), positives, ~positives, margin=0.25, boundary=1.0))
      0.625
    """
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    excess = jnp.where(positives, distances - boundary, boundary - distances)
    return reduce_losses(jax.nn.relu(excess + margin), positives | negatives, reduction)


@keeps_dtype
def binomial_deviance_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    alpha: float | jax.Array = 2.0,
    beta: float | jax.Array = 50.0,
    base: float | jax.Array = 0.5,
    reduction: str = "mean",
) -> jax.Array:
    """Return the binomial deviance: a softplus of how far each pair is on the wrong side of a similarity.

    An anchor loses the mean over its positives of softplus(alpha (base - s)) plus the mean over its negatives of
    softplus(beta (s - base)).

    Args:
      similarities: `[A, M]`, floating point, usually cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      alpha: > 0, sharpness for positives; differentiable.
      beta: > 0, sharpness for negatives; differentiable.
      base: similarity that separates positives from negatives; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        pair, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, a sharpness is not positive, or the reduction is unknown.

    References:
      Yi et al., Deep metric learning for practical person re-identification, 2014 (arXiv 1407.4979).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> round(float(binomial_deviance_loss(jnp.array([[0.5, 0.5]]), positives, ~positives)), 4)  # 2 log(2)
      1.3863
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_positive(alpha=alpha, beta=beta)
    of_rows = bind(_binomial_deviance, base, alpha, beta)
    return reduce_row_blocks(of_rows, (similarities, positives, negatives), reduction)


def _binomial_deviance(base, alpha, beta, similarities, positives, negatives):
    shifted = jnp.where(positives | negatives, similarities - base, 0)
    pull = reduce_losses(jax.nn.softplus(-alpha * shifted), positives, "anchors")
    push = reduce_losses(jax.nn.softplus(beta * shifted), negatives, "anchors")
    return [(pull + push, jnp.any(positives | negatives, axis=1))]


@keeps_dtype
def sigmoid_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    scale: float | jax.Array = 10.0,
    bias: float | jax.Array = -10.0,
    reduction: str = "mean",
) -> jax.Array:
    """Return the sigmoid loss (SigLIP): each pair on its own is classified as positive or negative.

    The logit of a pair is scale * s + bias. An anchor loses the sum of softplus(-logit) over its positives plus the sum
    of softplus(logit) over its negatives. For two towers, with the pair of an item as its only positive, the mean over
    the anchors is the loss of the paper. Unlike InfoNCE it is the same in both directions, so one of them is enough.
    `blockwise_losses` computes it for large batches.

    Args:
      similarities: `[A, M]`, floating point, usually cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart; a pair in both masks counts as positive.
      scale: > 0, the inverse temperature; differentiable.
      bias: of the logits, about minus the log of the number of negatives to start with; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        pair, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, the scale is not positive, or the reduction is unknown.

    References:
      Zhai et al., Sigmoid loss for language image pre-training, ICCV 2023 (arXiv 2303.15343).

    Examples:
      >>> positives = jnp.eye(2, dtype=bool)
      >>> loss = sigmoid_loss(jnp.eye(2), positives, ~positives, scale=2.0, bias=-1.0)
      >>> round(float(loss), 4)  # 2 log(1 + exp(-1))
      0.6265
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_positive(scale=scale)
    check_number("bias", bias)
    of_rows = bind(_sigmoid, scale, bias)
    return reduce_row_blocks(of_rows, (similarities, positives, negatives), reduction)


def _sigmoid(scale, bias, similarities, positives, negatives):
    logits, counted = scale * similarities + bias, positives | negatives
    losses = jnp.sum(softplus_where(counted, jnp.where(positives, -logits, logits)), axis=1)
    return [(losses, jnp.any(counted, axis=1))]


@keeps_dtype
def ranked_list_loss(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 0.4,
    boundary: float | jax.Array = 1.2,
    imbalance: float | jax.Array = 0.5,
    positive_temperature: float | jax.Array = 0.0,
    negative_temperature: float | jax.Array = 10.0,
    reduction: str = "mean",
) -> jax.Array:
    """Return the ranked list loss: positives inside boundary - margin, negatives outside the boundary.

    The excess of a positive is [d - (boundary - margin)]_+ and of a negative [boundary - d]_+. For each anchor and
    kind, the excesses above 0 are averaged with weights exp(temperature * excess). An anchor loses (1 - imbalance)
    times the average of its positives plus imbalance times that of its negatives.

    Args:
      distances: `[A, M]`, floating point; a pair whose distance is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      margin: gap between the two kinds; differentiable.
      boundary: distance that every negative should reach; differentiable.
      imbalance: in [0, 1], weight of the negatives.
      positive_temperature: >= 0, how much more the farthest positives count; 0 counts them equally.
      negative_temperature: >= 0, how much more the nearest negatives count; 0 counts them equally.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        pair, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the distances.

    Raises:
      TypeError: if the distances are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, a number is out of range, or the reduction is unknown.

    References:
      Wang et al., Ranked list loss for deep metric learning, 2019 (arXiv 1903.03238).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> loss = ranked_list_loss(jnp.array([[1.0, 1.0]]), positives, ~positives, margin=0.5, boundary=1.25)
      >>> round(float(loss), 4)
      0.25
    """
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    check_number("imbalance", imbalance, 0, 1)
    check_number("positive_temperature", positive_temperature, 0)
    check_number("negative_temperature", negative_temperature, 0)
    of_rows = bind(_ranked_list, margin, boundary, imbalance, positive_temperature, negative_temperature)
    return reduce_row_blocks(of_rows, (distances, positives, negatives), reduction)


def _ranked_list(margin, boundary, imbalance, positive_temperature, negative_temperature, distances, *masks):
    positives, negatives = masks
    far, near = distances - (boundary - margin), boundary - distances
    pull = exp_weighted_mean(far, positives & (far > 0), positive_temperature)
    push = exp_weighted_mean(near, negatives & (near > 0), negative_temperature)
    return [((1 - imbalance) * pull + imbalance * push, jnp.any(positives | negatives, axis=1))]


@keeps_dtype
def intra_pair_variance_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    slack: float | jax.Array = 0.01,
    reduction: str = "mean",
) -> jax.Array:
    """Return the intra-pair variance, a regularizer: pairs of one kind should be about equally similar.

    A positive loses [(1 - slack) mean - s]_+^2 and a negative [s - (1 + slack) mean]_+^2, where the mean is over all
    pairs of its kind. The two kinds are reduced separately and added.

    Args:
      similarities: `[A, M]`, floating point, usually cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      slack: fraction of the mean by which a similarity may be worse than the mean of its kind.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of pairs, defined at
        `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point or the masks not bool.
      ValueError: if shapes do not match or the reduction is unknown.

    References:
      Yu and Tao, Deep metric learning with tuplet margin loss, ICCV 2019.

    Examples:
      >>> positives = jnp.array([[True, True, False]])
      >>> float(intra_pair_variance_loss(jnp.array([[1.0, 0.5, 0.2]]), positives, ~positives, slack=0.0))
      0.03125
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    pairs = similarities, positives, negatives
    means = [jnp.sum(x) / jnp.maximum(jnp.sum(number), 1) for x, number in map_row_blocks(bind(_sums), pairs)]
    return reduce_row_blocks(bind(_intra_pair_variance, slack, *means), pairs, reduction)


def _sums(similarities, *masks):
    """Return for each mask the sum of each row's masked similarities, and their number."""
    numbers = (jnp.sum(mask.astype(similarities.dtype), axis=1) for mask in masks)
    return [(jnp.sum(similarities, axis=1, where=mask), number) for mask, number in zip(masks, numbers)]


def _intra_pair_variance(slack, mean_positive, mean_negative, similarities, positives, negatives):
    low = jax.nn.relu((1 - slack) * mean_positive - similarities)
    high = jax.nn.relu(similarities - (1 + slack) * mean_negative)
    return [(low**2, positives), (high**2, negatives)]


@keeps_dtype
def threshold_consistent_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    positive_margin: float | jax.Array = 0.9,
    negative_margin: float | jax.Array = 0.5,
    reduction: str = "active_mean",
) -> jax.Array:
    """Return the threshold-consistent margin loss, a regularizer: one threshold should fit all classes.

    A positive loses [positive_margin - s]_+ and a negative [s - negative_margin]_+. The two kinds are reduced
    separately and added.

    Args:
      similarities: `[A, M]`, floating point, cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      positive_margin: similarity that every positive should reach; differentiable.
      negative_margin: similarity that every negative should stay below; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of pairs, defined at
        `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point or the masks not bool.
      ValueError: if shapes do not match or the reduction is unknown.

    References:
      Zhang et al., Threshold-consistent margin loss for open-world deep metric learning, 2023 (arXiv 2307.04047).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> float(threshold_consistent_loss(jnp.array([[0.5, 0.75]]), positives, ~positives, positive_margin=0.75))
      0.5
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    pull = jax.nn.relu(positive_margin - similarities)
    push = jax.nn.relu(similarities - negative_margin)
    return reduce_losses(pull, positives, reduction) + reduce_losses(push, negatives, reduction)
