"""Pairs by how hard they are within the batch or for their anchor: the hardest, a range of ranks, all distances alike.

References:
  Yuan et al., Hard-aware deeply cascaded embedding, 2017 (arXiv 1611.05720).

Method: hardest pairs of a batch, ranks of an anchor, allowed distances
Experiment: pairs_that_count
"""

import functools

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_count, check_number
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax._vector import one_zero
from minibatch_jax.mining._pairs import finite_pairs
from minibatch_jax.mining.miners._lifts import mine_by_masks, mine_by_weights

Ranks = tuple[int, int | None]
"""The first rank that is kept and the first that is not, as in a slice."""

_BELOW_ONE = 1 - 2**-22
"""Keeps `ceil` from rounding 0.15 * 100, which is 15.000001 in float32, up to 16."""


def hardest_pair_masks(
    distances: jax.Array, positives: jax.Array, negatives: jax.Array, fraction: float | jax.Array = 0.5
) -> tuple[jax.Array, jax.Array]:
    """Keep a fraction of the positives, the farthest, and the same fraction of the negatives, the nearest.

    Distances are compared in float32. Pairs that tie with the last one kept are kept as well. Pairs of non-finite
    distance are ignored.

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
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    check_number("fraction", fraction, 0, 1, open_low=True)

    def wanted(mask):
        number = fraction * jnp.sum(mask, dtype=jnp.int32).astype(jnp.float32)
        return jnp.ceil(number * _BELOW_ONE).astype(jnp.int32)

    keys = _sortable_bits(distances)
    return _first(keys, positives, wanted(positives)), _first(keys, negatives, wanted(negatives), least=True)


def rank_pair_masks(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    positive_ranks: Ranks = (0, None),
    negative_ranks: Ranks = (0, None),
) -> tuple[jax.Array, jax.Array]:
    """Keep a slice of each anchor's pairs, sorted from the hardest: (0, 1) is the hardest, (2, None) skips two.

    Ranks count as in a slice of Python: (-1, None) is the easiest. The hardest positive is the farthest, the hardest
    negative the nearest. Distances are compared in float32. Tied pairs share the rank of the first of them, and for a
    negative rank, which counts from the easiest, that of the last. Pairs of non-finite distance are ignored.

    Args:
      distances: `[A, M]`, floating point.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      positive_ranks: first rank of the positives and the rank after the last, static ints or None; all by default.
      negative_ranks: first rank of the negatives and the rank after the last, static ints or None; all by default.

    Returns:
      The kept positives and the kept negatives, `[A, M]` bool.

    Raises:
      TypeError: if the distances are not floating point, the masks not bool or the ranks not pairs of ints or None.
      ValueError: if shapes do not match.

    Examples:
      >>> distances, positives = jnp.array([[1.0, 2.0, 3.0, 4.0]]), jnp.array([[True, False, False, False]])
      >>> rank_pair_masks(distances, positives, ~positives, negative_ranks=(1, 3))[1].astype(int).tolist()
      [[0, 0, 1, 1]]
    """
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    _check_ranks("positive_ranks", positive_ranks)
    _check_ranks("negative_ranks", negative_ranks)
    keys = _sortable_bits(distances)
    return _band(keys, positives, positive_ranks), _band(keys, negatives, negative_ranks, least=True)


def uniform_distance_weights(distances: jax.Array, mask: jax.Array, num_bins: int = 100) -> jax.Array:
    """Return one over the number of masked pairs in the same bin of distances, so that all distances count alike.

    Pairs outside the mask and pairs of non-finite distance get 0.

    Args:
      distances: `[A, M]`, floating point.
      mask: `[A, M]` bool.
      num_bins: number of bins of equal width from the least to the greatest masked distance, static.

    Returns:
      `[A, M]`, in the dtype of the distances; the weights of each bin that is not empty sum to 1.

    Raises:
      TypeError: if the distances are not floating point, the mask not bool or the number of bins not a static int.
      ValueError: if shapes do not match or the number of bins is below 1.

    Examples:
      >>> distances = jnp.array([[0.0, 0.1, 1.0]])
      >>> uniform_distance_weights(distances, distances >= 0, num_bins=2).tolist()
      [[0.5, 0.5, 1.0]]
    """
    dtype = jnp.result_type(distances)
    distances, mask, _ = finite_pairs("distances", distances, mask, mask)
    check_count("num_bins", num_bins)
    return _uniform_weights(distances, mask, num_bins=num_bins).astype(dtype)


def mine_hardest_pairs(fraction: float = 0.5) -> optax.GradientTransformationExtraArgs:
    """Keep the pairs that `hardest_pair_masks` keeps. Weights `[A, M]`; signals `distances`, `labels`.

    A pair that enters with weight 0 or has a non-finite distance is ignored and gets weight 0.

    Args:
      fraction: float in (0, 1], of the positives and of the negatives of the batch. The number kept is rounded up.

    Returns:
      A transformation of weights `[A, M]`; the weights of all other pairs become 0.

    Raises:
      TypeError: if the fraction is not a number, or, in `update`, a dtype is wrong.
      ValueError: if the fraction is out of range or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_hardest_pairs()
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.5, 0.4], [0.5, 0.0, 0.9], [0.4, 0.9, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    check_number("fraction", fraction, 0, 1, open_low=True)

    return mine_by_masks(lambda d, p, n: hardest_pair_masks(d, p, n, fraction))


def mine_uniform_distances(num_bins: int = 100) -> optax.GradientTransformationExtraArgs:
    """Weigh pairs so that every distance counts alike. Weights `[A, M]`; signals `distances`, `labels`.

    Positives and negatives are binned separately. The weights equal, in the mean, a draw of the same number of pairs
    from every bin. A pair that enters with weight 0 or has a non-finite distance is ignored and gets weight 0.

    Args:
      num_bins: number of bins of equal width from the least to the greatest distance, static.

    Returns:
      A transformation of weights `[A, M]`.

    Raises:
      TypeError: if the number of bins is not a static int, or, in `update`, a dtype is wrong.
      ValueError: if the number of bins is below 1 or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_uniform_distances(2)
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.5, 0.1], [0.5, 0.0, 0.9], [0.2, 0.9, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    """
    check_count("num_bins", num_bins)

    return mine_by_weights(functools.partial(_uniform_weights, num_bins=num_bins))


def mine_ranks(
    positive_ranks: Ranks = (0, None), negative_ranks: Ranks = (0, None)
) -> optax.GradientTransformationExtraArgs:
    """Keep the pairs that `rank_pair_masks` keeps. Weights `[A, M]`; signals `distances`, `labels`.

    Put it first in a chain: the miners after it ignore the pairs that it drops. For example,
    `optax.chain(mine_ranks(negative_ranks=(2, None)), mine_hard())` takes the third nearest negative.

    Args:
      positive_ranks: first rank of the positives of an anchor and the rank after the last, static ints or None, counted
        from the farthest; all by default.
      negative_ranks: first rank of the negatives of an anchor and the rank after the last, static ints or None, counted
        from the nearest; all by default.

    Returns:
      A transformation of weights `[A, M]`; the weights of all other pairs become 0.

    Raises:
      TypeError: if the ranks are not pairs of ints or None, or if `distances` is not floating point or `labels` not int
        in `update`.
      ValueError: if the shapes do not match in `update`.

    Examples:
      >>> tx = mine_ranks(negative_ranks=(0, 1))
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 1, 2])
      >>> distances = jnp.array([[0.0, 0.5, 0.4], [0.5, 0.0, 0.9], [0.4, 0.9, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    _check_ranks("positive_ranks", positive_ranks)
    _check_ranks("negative_ranks", negative_ranks)

    return mine_by_masks(lambda d, p, n: rank_pair_masks(d, p, n, positive_ranks, negative_ranks))


def _uniform_weights(distances, *masks, num_bins):
    """Return the sum of `uniform_distance_weights` of masks without a pair in common."""
    ends = map_row_blocks(bind(_ends), (distances, *masks))
    low = [jnp.min(least) for least, _ in ends]
    width = [jnp.max(most) - least for (_, most), least in zip(ends, low)]
    bins = bind(_bins, low, [jnp.where(x > 0, x, 1) for x in width], num_bins=num_bins)
    counts = map_row_blocks(bind(_count_bins, bins, num_bins=num_bins), (distances, *masks))
    counts = [jnp.sum(count, axis=0) for count in counts]
    return map_row_blocks(bind(_inverse_counts, bins, counts), (distances, *masks))


def _ends(distances, *masks):
    """Return the least and the greatest masked distance of each row, for each mask."""

    def ends(mask):
        return tuple(jnp.where(mask, distances, x) for x in (jnp.inf, -jnp.inf))

    return [(jnp.min(low, axis=1), jnp.max(high, axis=1)) for low, high in map(ends, masks)]


def _bins(low, width, distances, *masks, num_bins):
    """Return the bin of each pair among those of its mask, `num_bins` outside, for each mask `[A, M]`."""
    places = [(distances - least) / whole for least, whole in zip(low, width)]
    bins = [jnp.clip(jnp.floor(place * num_bins), 0, num_bins - 1).astype(jnp.int32) for place in places]
    return [jnp.where(mask, own, num_bins) for mask, own in zip(masks, bins)]


def _count_bins(bins_of, *pairs, num_bins):
    """Return the number of pairs of each anchor in each bin of each mask `[A, num_bins]`."""
    empty = jnp.zeros((pairs[0].shape[0], num_bins), jnp.int32)
    rows = jnp.arange(empty.shape[0])[:, None]
    return [empty.at[rows, bins].add(1, mode="drop") for bins in bins_of(*pairs)]


def _inverse_counts(bins_of, counts, distances, *masks):
    shares = [1 / jnp.maximum(jnp.append(count, 1), 1).astype(distances.dtype) for count in counts]
    return sum(jnp.where(mask, s[bins], 0) for mask, s, bins in zip(masks, shares, bins_of(distances, *masks)))


def _band(keys, mask, ranks, least=False):
    def before(rank):
        if rank >= 0:
            return _first(keys, mask, rank, least, axis=1)
        return mask & ~_first(keys, mask, -rank, not least, axis=1)

    first, end = ranks
    kept = mask if end is None else before(end)
    return kept if first == 0 else kept & ~before(first)


def _check_ranks(name, ranks):
    fits = isinstance(ranks, tuple) and len(ranks) == 2
    if not fits or not isinstance(ranks[0], int) or not isinstance(ranks[1], int | None):
        raise TypeError(f"{name} is {ranks!r}, wanted a pair of static ints, the second may be None.")


def _first(keys, mask, wanted, least=False, axis=None):
    """Return the mask of the `wanted` largest or least masked keys, of all or along the axis, by a bitwise search."""
    nothing = jnp.min(keys, axis=axis, keepdims=True) & jnp.uint32(0)
    step = bind(_set_bit, keys, mask, wanted, least=least, axis=axis)
    return mask & _reaches(keys, fori_loop(0, 32, step, nothing), least)


def _set_bit(keys, mask, wanted, i, threshold, *, least, axis):
    candidate = threshold | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
    number = jnp.sum(mask & _reaches(keys, candidate, least), axis=axis, keepdims=True, dtype=jnp.int32)
    return jnp.where(number >= wanted, candidate, threshold)


def _reaches(keys, threshold, least):
    """Return which keys, or with `least` which complements of keys, are at least the threshold."""
    return keys <= ~threshold if least else keys >= threshold


def _sortable_bits(values):
    """Return uint32 keys that sort like the values in float32; their complements sort the other way."""
    bits = jax.lax.bitcast_convert_type(one_zero(values.astype(jnp.float32)), jnp.uint32)
    negative = bits >> jnp.uint32(31) == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
