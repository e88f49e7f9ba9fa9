"""Near-duplicates of embeddings: rows whose cosine with an earlier row is above a threshold (SemDeDup).

Rows of one cluster are compared in blocks, so that neither all pairs are computed nor a matrix `[N, N]` is made.

References:
  Abbas et al., SemDeDup: data-efficient learning at web-scale through semantic deduplication, 2023 (arXiv 2303.09540).

Method: near-duplicates of embeddings (SemDeDup)
Paper: 2303.09540
Experiment: clean_pool
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_integer, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop, map_rows
from minibatch_jax.geometry import product, unit_rows
from minibatch_jax.selection._buckets import first_of_chains
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.selection.minhash import WEIGHTINGS, NearDuplicates, weights_of_distinct
from minibatch_jax.weights import weight_transformation

ROUNDING = 16
"""so many units in the last place may a cosine lie below the threshold"""


def near_duplicates_by_cosine(
    features: jax.Array,
    threshold: float | jax.Array = 0.95,
    *,
    clusters: jax.Array | None = None,
    where: jax.Array | None = None,
    block_size: int = 1024,
) -> NearDuplicates:
    """Return which rows have an earlier row whose cosine with theirs is at least a threshold.

    The comparison is exact among rows of one cluster: the first row of each group is kept, and no two kept rows of a
    cluster are near-duplicates. Without clusters it takes O(N^2 D) time, with K clusters of one size O(N^2 D / K); near
    rows of two clusters are then missed. O(N D + block_size^2) memory.

    Args:
      features: `[N, D]`, floating point; a row that is not finite does not exist, and a row of zeros is like no other.
      threshold: cosine from which rows are near-duplicates, in [0, 1], up to rounding, so that 1 finds exact copies.
        SemDeDup writes 1 - epsilon.
      clusters: `[N]` int, at least 0, cluster of each row, such as the `indices` of `assign_rows`; one for all by
        default. A row of a negative cluster does not exist.
      where: `[N]` bool, which rows exist; all by default.
      block_size: rows at a time, static.

    Returns:
      `NearDuplicates(keep, originals, similarities)`, where a similarity is a cosine, and 0 if none is positive.

    Raises:
      TypeError: if the features are not floating point, the clusters not integers, `where` is not bool or the block
        size is not a static int.
      ValueError: if shapes do not match, the threshold is outside [0, 1] or the block size is below 1.

    References:
      Abbas et al., 2023 (arXiv 2303.09540).

    Examples:
      >>> features = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1], [jnp.nan, 0.0]])
      >>> found = near_duplicates_by_cosine(features)
      >>> found.keep.tolist(), found.originals.tolist()
      ([True, True, False, False], [0, 1, 0, -1])
    """
    check_number("threshold", threshold, 0, 1)
    check_count("block_size", block_size)
    rows, exists = usable_features(features, where, metric="cosine")
    rows, size = unit_rows(rows), features.shape[0]
    if clusters is None:
        clusters = jnp.zeros(size, jnp.int32)
    check_shape("clusters", clusters, (size,))
    check_integer("clusters", clusters)
    clusters = clusters.astype(jnp.int32)
    exists &= clusters >= 0
    group = jnp.where(exists, clusters, jnp.iinfo(jnp.int32).max)
    group, order = jax.lax.sort((group, jnp.arange(size, dtype=jnp.int32)), num_keys=1, is_stable=True)
    first = jnp.searchsorted(group, group, side="left").astype(jnp.int32)  # place of the first row of the cluster
    block = min(block_size, size)
    padding = -size % block
    parts = jnp.pad(rows[order], ((0, padding), (0, 0))).reshape(-1, block, rows.shape[1])
    firsts = jnp.pad(first, (0, padding), constant_values=size).reshape(-1, block)
    numbers = jnp.arange(parts.shape[0], dtype=jnp.int32)
    compare = bind(_compare_block, parts, jnp.asarray(threshold, rows.dtype))
    earlier, cosine = (x.reshape(-1)[:size] for x in map_rows(compare, (numbers, parts, firsts)))
    ends = order[first_of_chains(earlier)]
    originals = jnp.zeros(size, jnp.int32).at[order].set(ends)
    similarities = jnp.zeros(size, jnp.float32).at[order].set(cosine.astype(jnp.float32))
    keep = exists & (originals == jnp.arange(size, dtype=jnp.int32))
    return NearDuplicates(keep, jnp.where(exists, originals, -1), jnp.where(exists, similarities, 0))


def keep_distinct_by_cosine(
    threshold: float | jax.Array = 0.95, *, weighting: str = "own"
) -> optax.GradientTransformationExtraArgs:
    """Keep the first of each group of examples with near features, by their cosine (SemDeDup). Signal: `features`.

    It is `near_duplicates_by_cosine` among the examples with a weight. Examples with a feature that is not finite are
    never kept.

    Args:
      threshold: cosine from which examples are near-duplicates, in [0, 1].
      weighting: "own" leaves the kept weights as they came; with "represented" a kept example has the weights of all
        its copies, too.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if the threshold is no number or, in `update`, the features are not floating point.
      ValueError: if the threshold is outside [0, 1], the weighting is unknown or, in `update`, the features are not
        `[B, D]`.

    References:
      Abbas et al., 2023 (arXiv 2303.09540).

    Examples:
      >>> tx = keep_distinct_by_cosine(0.9)
      >>> features = jnp.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), features=features)[0].tolist()
      [1.0, 0.0, 1.0]
    """
    check_number("threshold", threshold, 0, 1)
    check_choice("weighting", weighting, WEIGHTINGS)

    def update(weights, state, params=None, *, features, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        found = near_duplicates_by_cosine(features, threshold, where=weights != 0)
        return weights_of_distinct(weights, found, weighting), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def _compare_block(parts, threshold, block):
    """Compare the rows of a block with all earlier rows of their clusters, which are sorted by cluster."""
    number, rows, firsts = block
    size = rows.shape[0]
    places = number * size + jnp.arange(size, dtype=jnp.int32)
    start = firsts[0] // size  # no row of the block belongs to a cluster that starts earlier
    step = bind(_compare_two, parts, threshold, rows, places, firsts)
    return fori_loop(start, number + 1, step, (places, jnp.zeros(size, rows.dtype)))


def _compare_two(parts, threshold, rows, places, firsts, other, state):
    earlier, largest = state
    size = rows.shape[0]
    others = other * size + jnp.arange(size, dtype=jnp.int32)
    lengths = jnp.any(rows != 0, axis=1)[:, None] & jnp.any(parts[other] != 0, axis=1)[None]
    comparable = lengths & (others[None] < places[:, None]) & (others[None] >= firsts[:, None])
    cosines = jnp.where(comparable, product(rows, parts[other].T), -1)
    near = cosines >= threshold - ROUNDING * jnp.finfo(rows.dtype).eps
    found = jnp.min(jnp.where(near & comparable, others[None], places[:, None]), axis=1)
    return jnp.minimum(earlier, found), jnp.maximum(largest, jnp.max(cosines, axis=1))
