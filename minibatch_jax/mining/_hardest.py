"""Pairs by their place among all pairs of the batch: the hardest share, or all distances alike.

References:
  Yuan et al., Hard-aware deeply cascaded embedding, 2017 (arXiv 1611.05720).
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_count, check_number
from minibatch_jax.base import weight_transformation
from minibatch_jax.mining._pairs import check_pairs, pairs_of_weights


def hardest_pair_masks(
    distances: jax.Array, positives: jax.Array, negatives: jax.Array, fraction: float | jax.Array = 0.5
) -> tuple[jax.Array, jax.Array]:
    """Keep this share of the positives, the farthest, and this share of the negatives, the nearest.

    Distances are compared in float32; pairs that tie with the last one kept are kept as well.

    Args:
      distances: `[A, M]`, floating point.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      fraction: in (0, 1]; it may be traced. The number of pairs kept is rounded up.

    Returns:
      The kept positives and the kept negatives, `[A, M]` bool.

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match or the fraction is out of range.

    Examples:
      >>> distances, positives = jnp.array([[1.0, 2.0, 3.0, 4.0]]), jnp.array([[True, True, False, False]])
      >>> [mask.astype(int).tolist() for mask in hardest_pair_masks(distances, positives, ~positives)]
      [[[0, 1, 0, 0]], [[0, 0, 1, 0]]]
    """
    check_pairs("distances", distances, positives, negatives)
    check_number("fraction", fraction, 0, 1, open_low=True)
    return _largest(distances, positives, fraction), _largest(-distances, negatives, fraction)


def uniform_distance_weights(distances: jax.Array, mask: jax.Array, num_bins: int = 100) -> jax.Array:
    """One over the number of masked pairs with about the same distance, so that every distance counts alike.

    Args:
      distances: `[A, M]`, floating point.
      mask: `[A, M]` bool.
      num_bins: of equal width from the least to the greatest masked distance, static.

    Returns:
      `[A, M]`, in the dtype of the distances; the weights of each bin that is not empty sum to 1.

    Raises:
      TypeError: if the distances are not floating point, the mask not bool or the number of bins not a static int.
      ValueError: if shapes do not match.

    Examples:
      >>> distances = jnp.array([[0.0, 0.1, 1.0]])
      >>> uniform_distance_weights(distances, distances >= 0, num_bins=2).tolist()
      [[0.5, 0.5, 1.0]]
    """
    check_pairs("distances", distances, mask, mask)
    check_count("num_bins", num_bins)
    low = jnp.min(distances, where=mask, initial=jnp.inf)
    width = jnp.max(distances, where=mask, initial=-jnp.inf) - low
    place = jnp.where(mask, (distances - low) / jnp.where(width > 0, width, 1), 0)
    bins = jnp.clip(jnp.floor(place * num_bins).astype(jnp.int32), 0, num_bins - 1)
    counts = jnp.zeros(num_bins, jnp.int32).at[bins].add(mask.astype(jnp.int32))
    return jnp.where(mask, 1 / jnp.maximum(counts[bins], 1).astype(distances.dtype), 0)


def mine_hardest_pairs(fraction: float = 0.5) -> optax.GradientTransformationExtraArgs:
    """Keep the pairs that `hardest_pair_masks` keeps. Weights `[B, B]`; signals `distances`, `labels`.

    Examples:
      >>> tx = mine_hardest_pairs()
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.5, 0.4], [0.5, 0.0, 0.9], [0.4, 0.9, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    check_number("fraction", fraction, 0, 1, open_low=True)

    def update(weights, state, params=None, *, distances, labels, **extra_args):
        kept = hardest_pair_masks(*pairs_of_weights(weights, distances, labels), fraction)
        return jnp.where(kept[0] | kept[1], weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def mine_uniform_distances(num_bins: int = 100) -> optax.GradientTransformationExtraArgs:
    """Weigh pairs so that every distance counts alike. Weights `[B, B]`; signals `distances`, `labels`.

    Positives and negatives have histograms of their own. The weights are the mean of drawing the same number of pairs
    from every bin.

    Examples:
      >>> tx = mine_uniform_distances(2)
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.5, 0.1], [0.5, 0.0, 0.9], [0.2, 0.9, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    """
    check_count("num_bins", num_bins)

    def update(weights, state, params=None, *, distances, labels, **extra_args):
        distances, *masks = pairs_of_weights(weights, distances, labels)
        return weights * sum(uniform_distance_weights(distances, mask, num_bins) for mask in masks), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def _largest(values, mask, fraction):
    """The largest `fraction` of the masked values, by building the bits of the smallest one kept."""
    keys = _sortable_bits(jnp.where(mask, values, 0).astype(jnp.float32))
    wanted = jnp.ceil(fraction * jnp.sum(mask.astype(jnp.float32)))

    def set_bit(i, threshold):
        candidate = threshold | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        enough = jnp.sum((mask & (keys >= candidate)).astype(jnp.float32)) >= wanted
        return jnp.where(enough, candidate, threshold)

    return mask & (keys >= jax.lax.fori_loop(0, 32, set_bit, jnp.min(keys) & jnp.uint32(0)))


def _sortable_bits(values):
    """uint32 in the order of the float32 values."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    negative = bits >> jnp.uint32(31) == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
