"""Losses of pairs that smooth a measure of the whole ranking: average precision, overlap of histograms.

Method: losses of rankings: smooth-AP, PNP, FastAP, histogram
Paper: 2007.12163, 2102.04640, 1611.00822
Experiment: speed mining_table, zero_shot_retrieval
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_count
from minibatch_jax._loops import bind, map_rows
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax.mining._pairs import check_pairs, check_positive, finite_pairs, keeps_dtype
from minibatch_jax.mining._row_losses import reduce_row_blocks
from minibatch_jax.mining.reductions import reduce_losses
from minibatch_jax.weights import weight_dtype

_PENALTIES = ("linear", "log", "quotient", "entropy", "bounded")


def soft_ranks(similarities: jax.Array, counted: jax.Array, *, temperature: float | jax.Array = 0.01) -> jax.Array:
    """Return how many counted references are more similar to the anchor than each reference, smoothed by a sigmoid.

    The rank of reference i is the sum of sigmoid((s_j - s_i) / temperature) over the counted references j other than i:
    a tie counts one half. Anchors are handled one at a time, so memory is O(M^2), also for the gradient.

    Args:
      similarities: `[A, M]`, floating point, finite.
      counted: `[A, M]` bool, the references that may be ahead of others; no reference counts itself.
      temperature: > 0, width of the sigmoid.

    Returns:
      `[A, M]`, at least 0: 0 is the first place. It is float32 (float64 if the similarities are).

    Raises:
      TypeError: if the similarities are not floating point, the mask not bool or the temperature not a number.
      ValueError: if shapes do not match or the temperature is not positive.

    References:
      Brown et al., Smooth-AP: smoothing the path towards large-scale image retrieval, 2020 (arXiv 2007.12163).

    Examples:
      >>> soft_ranks(jnp.array([[1.0, 3.0, 2.0]]), jnp.ones((1, 3), bool)).round(3).tolist()
      [[2.0, 0.0, 1.0]]
    """
    check_pairs("similarities", similarities, counted, counted)
    check_positive(temperature=temperature)
    similarities = similarities.astype(weight_dtype(similarities.dtype))
    return map_rows(bind(_soft_ranks_of_row, temperature), (similarities, counted))


@jax.checkpoint
def _soft_ranks_of_row(temperature, row):
    values, mask = row
    others = ~jnp.eye(values.shape[0], dtype=bool)
    ahead = jax.nn.sigmoid((values[None, :] - values[:, None]) / temperature)
    return jnp.sum(jnp.where(others & mask[None, :], ahead, 0), axis=1)


@keeps_dtype
def smooth_ap_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    temperature: float | jax.Array = 0.01,
    reduction: str = "mean",
) -> jax.Array:
    """Return 1 minus the average precision of each anchor, with ranks smoothed by `soft_ranks`.

    The average precision is the mean over the positives of (1 + rank among the positives) / (1 + rank among all pairs).

    Args:
      similarities: `[A, M]`, floating point; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      temperature: > 0, width of the sigmoid that smooths the ranks.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        positive, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, the temperature is not positive, or the reduction is unknown.

    References:
      Brown et al., Smooth-AP: smoothing the path towards large-scale image retrieval, 2020 (arXiv 2007.12163).

    Examples:
      >>> positives = jnp.array([[True, False, True]])
      >>> loss = smooth_ap_loss(jnp.array([[3.0, 2.0, 1.0]]), positives, ~positives)  # 1 - (1 + 2/3) / 2
      >>> round(float(loss), 4)
      0.1667
    """
    check_pairs("similarities", similarities, positives, negatives)
    check_positive(temperature=temperature)
    return reduce_row_blocks(bind(_smooth_ap, temperature), (similarities, positives, negatives), reduction)


def _smooth_ap(temperature, *pairs):
    similarities, positives, negatives = finite_pairs("similarities", *pairs)
    used = positives | negatives
    values = jnp.where(used, similarities, 0)
    among_positives = 1 + soft_ranks(values, positives, temperature=temperature)
    among_all = 1 + soft_ranks(values, used, temperature=temperature)
    precision = reduce_losses(among_positives / among_all, positives, "anchors")
    return [(1 - precision, jnp.any(positives, axis=1))]


@keeps_dtype
def pnp_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    penalty: str = "linear",
    power: float | jax.Array = 1.0,
    bound: float | jax.Array = 2.0,
    temperature: float | jax.Array = 0.01,
    reduction: str = "mean",
) -> jax.Array:
    """Return the PNP loss: a penalty of the number r of negatives that are ranked before a positive.

    The number r is smoothed by a sigmoid. An anchor loses the mean of the penalty over its positives.

    Args:
      similarities: `[A, M]`, floating point; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      penalty: "linear" r, "log" log(1 + r), "quotient" 1 - (1 + r)^-power, "entropy" (1 + r) log(1 + r), or "bounded"
        (bound r - log(1 + bound r)) / bound^2. The paper calls them PNP-O, D_s, D_q, I_u and I_b.
      power: exponent of "quotient"; the other penalties ignore it.
      bound: factor in "bounded"; the other penalties ignore it.
      temperature: > 0, width of the sigmoid that smooths r.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        positive, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, the penalty or reduction is unknown, or the temperature is not positive.

    References:
      Li et al., Rethinking the optimization of average precision: only penalizing negative instances before positive
        ones is enough, 2021 (arXiv 2102.04640).

    Examples:
      >>> positives = jnp.array([[True, False, True]])
      >>> round(float(pnp_loss(jnp.array([[3.0, 2.0, 1.0]]), positives, ~positives)), 4)
      0.5
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_choice("penalty", penalty, _PENALTIES)
    check_positive(temperature=temperature)
    of_rows = bind(_pnp, temperature, power, bound, penalty=penalty)
    return reduce_row_blocks(of_rows, (similarities, positives, negatives), reduction)


def _pnp(temperature, power, bound, similarities, positives, negatives, *, penalty):
    values = jnp.where(positives | negatives, similarities, 0)
    r = soft_ranks(values, negatives, temperature=temperature)
    penalized = {
        "linear": lambda: r,
        "log": lambda: jnp.log1p(r),
        "quotient": lambda: 1 - (1 + r) ** -power,
        "entropy": lambda: (1 + r) * jnp.log1p(r),
        "bounded": lambda: (bound * r - jnp.log1p(bound * r)) / bound**2,
    }[penalty]()
    return [(reduce_losses(penalized, positives, "anchors"), jnp.any(positives, axis=1))]


@keeps_dtype
def fast_ap_loss(
    squared_distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    num_bins: int = 10,
    reduction: str = "mean",
) -> jax.Array:
    """Return 1 minus the average precision of each anchor, from histograms of its squared distances (FastAP).

    With h the histogram of the positives, H and T the cumulative histograms of the positives and of all pairs, the
    average precision is the sum of h H / T over the bins, divided by the number of positives.

    Args:
      squared_distances: `[A, M]`, floating point, in [0, 4]: between vectors of length 1. A pair whose distance is not
        finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      num_bins: static, number of bins between 0 and 4.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        positive, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the squared distances.

    Raises:
      TypeError: if the distances are not floating point, the masks not bool or the number of bins not a static int.
      ValueError: if shapes do not match, the number of bins is below 1, or the reduction is unknown.

    References:
      Cakir et al., Deep metric learning to rank, CVPR 2019.

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> float(fast_ap_loss(jnp.array([[0.0, 4.0]]), positives, ~positives))
      0.0
    """
    squared_distances, positives, negatives = finite_pairs("squared_distances", squared_distances, positives, negatives)
    check_count("num_bins", num_bins)
    of_rows = bind(_fast_ap, num_bins=num_bins)
    return reduce_row_blocks(of_rows, (squared_distances, positives, negatives), reduction)


def _fast_ap(squared_distances, positives, negatives, *, num_bins):
    places = jnp.clip(squared_distances * (num_bins / 4), 0, num_bins)
    pulled, pushed = _row_histograms(places, positives, num_bins), _row_histograms(places, negatives, num_bins)
    every = pulled + pushed
    above, below = pulled * jnp.cumsum(pulled, axis=1), jnp.cumsum(every, axis=1)
    count = jnp.sum(positives.astype(pulled.dtype), axis=1)
    precision = jnp.sum(above / jnp.where(below > 0, below, 1), axis=1) / jnp.maximum(count, 1)
    return [(1 - precision, count > 0)]


@keeps_dtype
def histogram_loss(
    similarities: jax.Array, positives: jax.Array, negatives: jax.Array, *, num_bins: int = 100
) -> jax.Array:
    """Return the probability that a negative pair is more similar than a positive pair, from two histograms.

    Each similarity is shared linearly between the two nearest nodes of a grid on [-1, 1], which makes the histograms
    differentiable.

    Args:
      similarities: `[A, M]`, floating point, in [-1, 1]; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      num_bins: static, number of bins between -1 and 1.

    Returns:
      `[]`; 0 if there is no positive or no negative, in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or the number of bins not a static int.
      ValueError: if shapes do not match or the number of bins is below 1.

    References:
      Ustinova and Lempitsky, Learning deep embeddings with histogram loss, 2016 (arXiv 1611.00822).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> [float(histogram_loss(jnp.array([[s, 0.0]]), positives, ~positives, num_bins=4)) for s in (0.5, -0.5)]
      [0.0, 1.0]
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_count("num_bins", num_bins)
    of_rows = bind(_histograms, num_bins=num_bins)
    found = map_row_blocks(of_rows, (similarities, positives, negatives))
    pulled, pushed = (jnp.sum(heights, axis=0) / jnp.maximum(jnp.sum(number), 1) for heights, number in found)
    return jnp.sum(pushed * jnp.cumsum(pulled))


def _histograms(similarities, *masks, num_bins):
    """Return for each mask the histogram `[A, num_bins + 1]` of each row's masked places, and their number `[A]`."""
    places = jnp.clip((similarities + 1) * (num_bins / 2), 0, num_bins)
    left = jnp.clip(jax.lax.stop_gradient(jnp.floor(places)), 0, num_bins - 1)
    nodes, rows = left.astype(jnp.int32), jnp.arange(left.shape[0])[:, None]

    def histogram(mask):
        share = jnp.where(mask, places - left, 0)
        heights = jnp.zeros((mask.shape[0], num_bins + 1), share.dtype)
        heights = heights.at[rows, nodes].add(jnp.where(mask, 1 - share, 0)).at[rows, nodes + 1].add(share)
        return heights, jnp.sum(mask.astype(share.dtype), axis=1)

    return [histogram(mask) for mask in masks]


def _row_histograms(places, mask, num_bins):
    """Return the histogram of each row `[A, num_bins + 1]`: a masked place is shared by its two nearest nodes."""
    return map_rows(bind(_heights, places, mask), jnp.arange(num_bins + 1, dtype=places.dtype)).T


@jax.checkpoint
def _heights(places, mask, node):
    return jnp.sum(jnp.where(mask, jax.nn.relu(1 - jnp.abs(places - node)), 0), axis=1)
