"""How many rows each cluster of a pool gives, and which: quotas of an exact total, and draws inside the clusters.

MiniPile leaves out clusters of junk that somebody has looked at, and takes as many rows from each other cluster. So
rare kinds of text count as much as common ones.

References:
  Kaddour, The MiniPile challenge for data-efficient language models, 2023 (arXiv 2304.08442).

Method: quotas of clusters (MiniPile)
Paper: 2304.08442
Experiment: clean_pool
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_floating,
    check_integer,
    check_shape,
    check_whole,
    mask_or_all,
)
from minibatch_jax._loops import bind, while_loop
from minibatch_jax._vector import class_numbers, first_of_groups, nonzero
from minibatch_jax.selection.minhash import WEIGHTINGS
from minibatch_jax.weights import KeyState, weight_transformation

BY = ("equal", "proportional", "density")


def cluster_quotas(
    sizes: jax.Array,
    total: int | jax.Array,
    *,
    by: str = "equal",
    mean_distances: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Return how many rows to take of each cluster: shares of a total, none above what the cluster has.

    What a small cluster cannot give is divided among the others in the same proportions (water-filling), so that the
    quotas sum to the total exactly. Fractions are rounded down, and the rows left go to the largest fractions, the
    first cluster first. In float32, quotas may be off by some rows if one is above a million; the sum is not.

    Args:
      sizes: `[K]` int, at least 0, rows of each cluster, 2^31 - 1 in all at most.
      total: rows to take in all, at least 0; more than there are means all of them, and a negative one that is traced
        means none.
      by: "equal" shares; "proportional" to the sizes; "density", proportional to size (1 - d / 2) with the mean cosine
        distance d of a cluster to its center. The work that uses the last calls d a density, but a large d is a loose
        cluster: loose clusters give less.
      mean_distances: `[K]`, floating point, for "density" only, such as those of `cluster_report`; one that is not
        finite counts as 0.
      where: `[K]` bool, which clusters to take from; all by default. The others get 0.

    Returns:
      `[K]` int32, at most the sizes, summing to the total or to all rows of the clusters taken from.

    Raises:
      TypeError: if the sizes are not integers, the distances not floating point or `where` is not bool.
      ValueError: if shapes do not match, the total is negative, `by` is unknown, or the distances are missing for
        "density" or given for another.

    References:
      Kaddour, 2023 (arXiv 2304.08442).

    Examples:
      >>> cluster_quotas(jnp.array([100, 2, 50, 0]), 33).tolist()
      [16, 2, 15, 0]
      >>> cluster_quotas(jnp.array([60, 20, 20]), 10, by="proportional", where=jnp.array([True, True, False])).tolist()
      [8, 2, 0]
    """
    check_shape("sizes", sizes, (None,))
    check_integer("sizes", sizes)
    check_whole("total", total)
    check_choice("by", by, BY)
    taken = mask_or_all("where", where, sizes.shape)
    sizes = jnp.where(taken, jnp.maximum(sizes.astype(jnp.int32), 0), 0)
    total = jnp.clip(jnp.asarray(total, jnp.int32), 0, jnp.sum(sizes, dtype=jnp.int32))
    shares = jnp.ones(sizes.shape, jnp.float32) if by == "equal" else sizes.astype(jnp.float32)
    if (mean_distances is not None) != (by == "density"):
        raise ValueError(f"mean_distances is {'missing' if by == 'density' else 'given'} with by={by!r}.")
    if mean_distances is not None:
        check_shape("mean_distances", mean_distances, sizes.shape)
        check_floating("mean_distances", mean_distances)
        loose = jnp.where(jnp.isfinite(mean_distances), mean_distances.astype(jnp.float32), 0)
        shares *= 1 - jnp.clip(loose, 0, 2) / 2
    return _filled(sizes, jnp.where(sizes > 0, jnp.maximum(shares, 1e-6), 0), total)


def quota_mask(
    key: jax.Array | int, clusters: jax.Array, quotas: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
    """Return a mask of rows drawn uniformly without replacement inside each cluster, as many as its quota says.

    Args:
      key: int seed or key.
      clusters: `[N]` int, cluster of each row; a row of a number outside [0, K) is not drawn.
      quotas: `[K]` int, rows of each cluster to draw; all rows of a cluster that has fewer.
      where: `[N]` bool, which rows may be drawn; all by default.

    Returns:
      `[N]` bool.

    Raises:
      TypeError: if clusters or quotas are not integers, `where` is not bool or the key is no key.
      ValueError: if shapes do not match.

    Examples:
      >>> mask = quota_mask(0, jnp.array([0, 0, 0, 1, 1, -1]), jnp.array([1, 2]))
      >>> mask[:3].sum().tolist(), mask[3:].tolist()
      (1, [True, True, False])
    """
    check_shape("clusters", clusters, (None,))
    check_integer("clusters", clusters)
    check_shape("quotas", quotas, (None,))
    check_integer("quotas", quotas)
    size, k = clusters.shape[0], quotas.shape[0]
    group = jnp.where(mask_or_all("where", where, (size,)), class_numbers(clusters, k), k)
    turn = jax.random.permutation(as_key(key), jnp.arange(size, dtype=jnp.int32))  # without ties
    *_, order = jax.lax.sort((group, turn, jnp.arange(size, dtype=jnp.int32)), num_keys=2)
    return first_of_groups(group, order, quotas)


def keep_by_quota(
    k: int, num_domains: int, key: jax.Array | int, *, by: str = "equal", weighting: str = "own"
) -> optax.GradientTransformationExtraArgs:
    """Keep k examples, of each domain its quota, drawn anew at each step. Signal: `domains` [B], such as clusters.

    The quotas are `cluster_quotas` of the numbers of examples with a weight. If fewer than k have one, all are kept. To
    leave out clusters, give their examples the weight 0.

    Args:
      k: how many to keep, at least 1, static.
      num_domains: number of domains, static; an example of a number outside [0, num_domains) is never kept.
      key: int seed or key.
      by: "equal" or "proportional" quotas.
      weighting: "own" leaves the kept weights as they came; with "represented" the kept examples of a domain have the
        weights of all its examples, in proportion to their own.

    Returns:
      A transformation over `[B]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, the domains are not integers.
      ValueError: if a count is below 1, a name is unknown or, in `update`, k > B or the domains are not `[B]`.

    References:
      Kaddour, 2023 (arXiv 2304.08442).

    Examples:
      >>> tx = keep_by_quota(2, 2, key=0)
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), domains=jnp.array([1, 0, 0]))[0][0].tolist()
      1.0
    """
    check_count("k", k)
    check_count("num_domains", num_domains)
    check_choice("by", by, BY[:2])
    check_choice("weighting", weighting, WEIGHTINGS)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, domains, **extra_args):
        check_count("k", k, weights.shape[0], "the number of examples")
        check_shape("domains", domains, weights.shape)
        next_key, draw_key = jax.random.split(state.rng_key)
        group = jnp.where(weights != 0, class_numbers(domains, num_domains), num_domains)
        sizes = jnp.zeros(num_domains + 1, jnp.int32).at[group].add(1)[:num_domains]
        kept = quota_mask(draw_key, group, cluster_quotas(sizes, k, by=by))
        kept_weights = jnp.where(kept, weights, 0)
        if weighting == "represented":
            totals, remaining = (
                jnp.zeros(num_domains + 1, weights.dtype).at[group].add(w) for w in (weights, kept_weights)
            )
            kept_weights = kept_weights * (totals / nonzero(remaining))[group]
        return kept_weights, KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _filled(sizes: jax.Array, shares: jax.Array, total: jax.Array) -> jax.Array:
    """Return whole numbers in proportion to the shares, at most the sizes, that sum to the total."""
    levels = jnp.where(shares > 0, sizes.astype(jnp.float32) / nonzero(shares), jnp.inf)  # at which each is exhausted
    order = jnp.argsort(levels, stable=True)
    exhausted = jnp.cumsum(sizes[order]) - sizes[order]  # rows of those before, in whole numbers
    left = shares[order]
    left = jnp.cumsum(left[::-1])[::-1]
    level = (total - exhausted).astype(jnp.float32) / nonzero(left)
    fits = (level < levels[order]) & (left > 0)
    water = jnp.where(jnp.any(fits), level[jnp.argmax(fits)], jnp.inf)
    exact = jnp.where(shares > 0, water * jnp.where(shares > 0, shares, 1), 0)
    exact = jnp.minimum(exact, sizes.astype(jnp.float32))
    quotas = jnp.minimum(exact.astype(jnp.int32), sizes)
    fractions = jnp.round((exact - quotas.astype(jnp.float32)) * 1024)  # equal ones are not told apart by rounding
    state = quotas, total - jnp.sum(quotas, dtype=jnp.int32)
    return while_loop(_sum_differs, bind(_one_row_each, sizes, fractions), state)[0]


def _sum_differs(state):
    return state[1] != 0


def _one_row_each(sizes, fractions, state):
    """Give one more row to as many clusters as rows are left, by the largest fraction; or take what rounding gave."""
    quotas, left = state
    may = jnp.where(left > 0, quotas < sizes, quotas > 0)
    order = jnp.argsort(jnp.where(may, -jnp.sign(left).astype(jnp.float32) * fractions, jnp.inf), stable=True)
    rank = jnp.zeros_like(quotas).at[order].set(jnp.arange(quotas.shape[0], dtype=jnp.int32))
    changed = jnp.where(may & (rank < jnp.abs(left)), jnp.sign(left), 0)
    return quotas + changed, left - jnp.sum(changed, dtype=jnp.int32)
