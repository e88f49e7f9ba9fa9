"""Triplet loss without a margin: the harder a triplet is among all triplets so far, the larger its weight.

Method: dynamic soft margin
Experiment: pairs_that_count
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_count, check_number
from minibatch_jax._loops import bind, map_rows
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax.mining._columns import FALLBACKS
from minibatch_jax.mining._pairs import finite_pairs
from minibatch_jax.mining.losses._triplet_sums import MINING, sum_triplets


class DynamicMargin(NamedTuple):
    """How hard the triplets so far were.

    Attributes:
      histogram: `[num_bins + 1]`, fraction of the triplets at each of the nodes from -span to span of d_ap - d_an;
        zeros before the first batch.
    """

    histogram: jax.Array


def init_dynamic_margin(num_bins: int = 10) -> DynamicMargin:
    """Return a margin that has seen no triplet; keep it in the training state.

    Args:
      num_bins: static int, at least 1, bins of the histogram.

    Returns:
      A `DynamicMargin` with a histogram of zeros `[num_bins + 1]`, float32.

    Raises:
      TypeError: if the number of bins is not a static int.
      ValueError: if the number of bins is below 1.

    References:
      Zhang and Rusinkiewicz, Learning local descriptors with a CDF-based dynamic soft margin, ICCV 2019.

    Examples:
      >>> init_dynamic_margin(4).histogram.tolist()
      [0.0, 0.0, 0.0, 0.0, 0.0]
    """
    check_count("num_bins", num_bins)
    return DynamicMargin(jnp.zeros(num_bins + 1))


def dynamic_margin_loss(
    margin: DynamicMargin,
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    mining: str = "all",
    fallback: str = "drop",
    decay: float | jax.Array = 0.99,
    span: float = 2.0,
) -> tuple[jax.Array, DynamicMargin]:
    """Return the mean over the mined triplets of d_ap - d_an, weighed by how hard each triplet is among all so far.

    The weight of a triplet is the fraction of the triplets so far whose d_ap - d_an is not larger. The gradient treats
    it as a constant.

    Args:
      margin: a `DynamicMargin`, the histogram of the triplets before this batch.
      distances: `[A, M]`, floating point, in [0, 2] for vectors of length 1, else choose `span`. A pair whose distance
        is not finite is in no triplet.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      mining: which triplets count; the paper takes "hard". "all"; "violating", those with d_an <= d_ap; "semihard",
        those with d_an > d_ap; "easy", none, since there is no margin; "nearest_semihard", for each positive pair the
        nearest negative with d_an > d_ap; "hard", for each anchor its farthest positive and nearest negative;
        "easy_positive", for each anchor its nearest positive and the nearest negative beyond it.
      fallback: what "semihard", "nearest_semihard" and "easy_positive" do with a positive that no negative is farther
        than: "drop" it, or pair it with the "easiest" (farthest) or the "hardest" (nearest) negative.
      decay: in [0, 1], share of the old histogram that is kept; the first batch replaces it whole.
      span: positive, static: the histogram reaches from -span to span, and differences beyond count at its ends. 2 fits
        vectors of length 1; keep it the same over a run.

    Returns:
      The loss `[]`, float32 (float64 if the distances are), and the `DynamicMargin` that has seen the batch; it is
      unchanged if the batch has no triplet.

    Raises:
      TypeError: if the distances are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, a choice is unknown or the decay is out of range.

    References:
      Zhang and Rusinkiewicz, Learning local descriptors with a CDF-based dynamic soft margin, ICCV 2019.

    Examples:
      >>> distances, positives = jnp.array([[0.5, 1.0, 0.25]]), jnp.array([[True, False, False]])
      >>> loss, margin = dynamic_margin_loss(init_dynamic_margin(16), distances, positives, ~positives)
      >>> float(loss), float(margin.histogram[6]), float(margin.histogram[9])  # (-0.5 * 0.5 + 0.25 * 1) / 2
      (0.0, 0.5, 0.5)
    """
    check_choice("mining", mining, MINING)
    check_choice("fallback", fallback, FALLBACKS)
    check_number("decay", decay, 0, 1)
    check_number("span", span, 0, open_low=True)
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    fixed = jax.lax.stop_gradient(distances)
    nodes = jnp.arange(margin.histogram.shape[0], dtype=fixed.dtype)
    pairs = fixed, positives, negatives
    heights = bind(_heights, nodes, span=span, mining=mining, fallback=fallback)
    histogram = _updated(margin.histogram, jnp.sum(map_row_blocks(heights, pairs), axis=0), decay)
    sums = map_row_blocks(bind(_sums, histogram, nodes, span=span, mining=mining, fallback=fallback), pairs)
    number = jnp.maximum(jnp.sum(sums.mined), 1)
    total = _with_slopes(jnp.sum(sums.loss), distances, sums.weights)
    return total / number, DynamicMargin(histogram.astype(margin.histogram.dtype))


@jax.custom_jvp
def _with_slopes(total, distances, slopes):
    """Return the total, whose derivative by the distances is the slopes."""
    return total


@_with_slopes.defjvp
def _derivative(primals, tangents):
    return primals[0], jnp.sum(primals[2] * tangents[1])


def _place(excess, num_bins, span):
    return jnp.clip((excess + span) * (num_bins / (2 * span)), 0, num_bins)


def _heights(nodes, distances, positives, negatives, **options):
    """Return how many triplets of each anchor have their excess at each node of the histogram `[A, num_bins + 1]`.

    An excess between two nodes is shared.
    """
    height = bind(_height, distances, positives, negatives, num_bins=nodes.shape[0] - 1, **options)
    return map_rows(height, nodes).T


def _sums(histogram, nodes, distances, positives, negatives, *, span, mining, fallback):
    penalty = bind(_weighted, histogram, nodes, span=span)
    return sum_triplets(distances, positives, negatives, penalty, mining, fallback, margin=jnp.inf)


def _height(distances, positives, negatives, node, *, num_bins, span, mining, fallback):
    penalty = bind(_nearness, node, num_bins=num_bins, span=span)
    return sum_triplets(distances, positives, negatives, penalty, mining, fallback, margin=jnp.inf).loss


def _nearness(node, excess, *, num_bins, span):
    return jax.nn.relu(1 - jnp.abs(_place(excess, num_bins, span) - node)), jnp.zeros_like(excess)


def _weighted(histogram, nodes, excess, *, span):
    """Return each excess times the part of the histogram that is not larger, and that part."""
    reached = _place(excess, nodes.shape[0] - 1, span)[None] >= nodes.reshape(-1, *(1,) * excess.ndim)
    share = jnp.sum(jnp.where(reached, histogram.reshape(-1, *(1,) * excess.ndim), 0), axis=0)
    return share * excess, share


def _updated(histogram, heights, decay):
    number = jnp.sum(heights)
    share = jnp.where(jnp.sum(histogram) > 0, 1 - decay, 1)
    new = (1 - share) * histogram + share * heights / jnp.where(number > 0, number, 1)
    return jnp.where(number > 0, new, histogram)
