"""Triplet loss without a margin: the harder a triplet among all so far, the larger its weight.

References:
  Zhang and Rusinkiewicz, Learning local descriptors with a CDF-based dynamic soft margin, ICCV 2019.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_count, check_number
from minibatch_jax.mining._triplet_sums import MINING, sum_triplets
from minibatch_jax.mining._triplets import FALLBACKS, prepare


class DynamicMargin(NamedTuple):
    """Share of the triplets with each difference d_ap - d_an, at nodes from -2 to 2, `[num_bins + 1]`; 0 at first."""

    histogram: jax.Array


def init_dynamic_margin(num_bins: int = 10) -> DynamicMargin:
    """A margin that has seen no triplet; keep it in the training state.

    Args:
      num_bins: between the nodes of the histogram, static.

    Returns:
      Zeros.

    Raises:
      TypeError: if the number is not a static int.
      ValueError: if it is below 1.

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
    momentum: float | jax.Array = 0.01,
) -> tuple[jax.Array, DynamicMargin]:
    """Mean over the mined triplets of (d_ap - d_an) times the share of triplets so far that are not harder.

    The share is a constant for the gradient.

    Args:
      margin: what was seen before.
      distances: `[A, M]` in [0, 2], floating point: between vectors of length 1.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      mining: which triplets, see `triplet_loss`; the paper takes "hard" ones.
      fallback: see `triplet_loss`.
      momentum: in [0, 1], weight of this batch in the histogram; the first batch replaces it.

    Returns:
      The loss `[]`, and the margin that has seen the batch.

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match, a choice is unknown or the momentum is out of range.

    Examples:
      >>> distances, positives = jnp.array([[0.5, 1.0, 0.25]]), jnp.array([[True, False, False]])
      >>> loss, margin = dynamic_margin_loss(init_dynamic_margin(16), distances, positives, ~positives)
      >>> float(loss), float(margin.histogram[6]), float(margin.histogram[9])  # (-0.5 * 0.5 + 0.25 * 1) / 2
      (0.0, 0.5, 0.5)
    """
    check_choice("mining", mining, MINING)
    check_choice("fallback", fallback, FALLBACKS)
    check_number("momentum", momentum, 0, 1)
    distances, positives, negatives = prepare(distances, positives, negatives)
    fixed, num_bins = jax.lax.stop_gradient(distances), margin.histogram.shape[0] - 1
    nodes = jnp.arange(num_bins + 1, dtype=fixed.dtype)

    def place(excess):
        return jnp.clip((excess + 2) * (num_bins / 4), 0, num_bins)

    def total(penalty):
        return sum_triplets(fixed, positives, negatives, penalty, mining, fallback, margin=jnp.inf)

    def height(node):
        return jnp.sum(total(lambda e: (jax.nn.relu(1 - jnp.abs(place(e) - node)), jnp.zeros_like(e))).loss)

    heights = jax.lax.map(height, nodes)
    histogram = _updated(margin.histogram, heights, momentum)

    def weighted(excess):
        reached = place(excess)[None] >= nodes.reshape(-1, *(1,) * excess.ndim)
        share = jnp.sum(jnp.where(reached, histogram.reshape(-1, *(1,) * excess.ndim), 0), axis=0)
        return share * excess, share

    sums = total(weighted)
    number = jnp.maximum(jnp.sum(sums.mined), 1)
    no_change = jnp.sum(sums.weights * (distances - fixed))  # its gradient is that of the sum
    return (jnp.sum(sums.loss) + no_change) / number, DynamicMargin(histogram.astype(margin.histogram.dtype))


def _updated(histogram, heights, momentum):
    number = jnp.sum(heights)
    share = jnp.where(jnp.sum(histogram) > 0, momentum, 1)
    new = (1 - share) * histogram + share * heights / jnp.where(number > 0, number, 1)
    return jnp.where(number > 0, new, histogram)
