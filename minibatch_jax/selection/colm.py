"""CoLM: a smaller batch from a mixture of sources, with small sources whole and medoids of large ones.

References:
  Nguyen et al., Mini-batch coresets for memory-efficient language model training on data mixtures, ICLR 2025
  (arXiv 2407.19580).
  Malladi et al., Fine-tuning language models with just forward passes, NeurIPS 2023 (arXiv 2305.17333).

Method: CoLM
Paper: 2407.19580
Experiment: mixture_coreset
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_floating, check_integer, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import as_index, first_max
from minibatch_jax.selection import _greedy
from minibatch_jax.selection._similarities import METRICS, nearness_matrix, usable_features
from minibatch_jax.selection.coresets import medoid_weights
from minibatch_jax.weights import weight_dtype, weight_transformation


def zeroth_order_scale(losses_plus: jax.Array, losses_minus: jax.Array, step: float = 1e-3) -> jax.Array:
    """Return the derivative of each loss along a probe z, from two forward passes: `(plus - minus) / (2 * step)`.

    The derivative times z estimates the gradient of an example. All examples share z, so the estimates from one probe
    lie on one line: use several probes as features.

    Args:
      losses_plus: `[B]`, or `[B, Q]` for Q probes, floating point, losses at the parameters plus `step * z`.
      losses_minus: like `losses_plus`, losses at the parameters minus `step * z`.
      step: length of the probe, positive.

    Returns:
      The shape of the losses, float32 (float64 if the losses are).

    Raises:
      TypeError: if the losses are not floating point.
      ValueError: if the shapes differ or the step is not positive.

    References:
      Malladi et al., NeurIPS 2023 (arXiv 2305.17333).

    Examples:
      >>> zeroth_order_scale(jnp.array([1.5]), jnp.array([0.5]), step=0.25).tolist()
      [2.0]
    """
    check_floating("losses_plus", losses_plus)
    check_shape("losses_minus", losses_minus, losses_plus.shape)
    check_number("step", step, 0, open_low=True)
    dtype = weight_dtype(losses_plus.dtype)
    return (losses_plus.astype(dtype) - losses_minus.astype(dtype)) / (2 * step)


def adam_features(
    gradients: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    count: jax.Array,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> jax.Array:
    """Return the update that Adam would make from the gradient of each example alone, without the learning rate.

    Args:
      gradients: `[B, D]`, floating point, gradient of each example.
      mean: `[D]`, floating point, Adam's first moment.
      variance: `[D]`, floating point, at least 0, Adam's second moment.
      count: `[]` int, number of updates so far.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the square root of the second moment, positive.

    Returns:
      `[B, D]`, the updates, float32 (float64 if the gradients are).

    Raises:
      ValueError: if shapes do not match.

    References:
      Nguyen et al., ICLR 2025 (arXiv 2407.19580).

    Examples:
      >>> adam_features(jnp.array([[3.0, -0.5]]), jnp.zeros(2), jnp.zeros(2), jnp.array(0)).round(3).tolist()
      [[1.0, -1.0]]
    """
    check_shape("gradients", gradients, (None, None))
    check_shape("mean", mean, gradients.shape[1:])
    check_shape("variance", variance, gradients.shape[1:])
    dtype = weight_dtype(gradients.dtype)
    gradients, mean, variance = gradients.astype(dtype), mean.astype(dtype), variance.astype(dtype)
    after = (count + 1).astype(dtype)
    first = (b1 * mean[None] + (1 - b1) * gradients) / (1 - b1**after)
    second = (b2 * variance[None] + (1 - b2) * gradients**2) / (1 - b2**after)
    return first / (jnp.sqrt(second) + eps)


def largest_features_by_domain(features: jax.Array, domains: jax.Array, num_domains: int, size: int) -> jax.Array:
    """Return, for each example, the coordinates that are largest in absolute mean over the source of the example.

    Args:
      features: `[B, D]`, floating point.
      domains: `[B]` int, in [0, num_domains), the source of each example.
      num_domains: number of sources, at least 1, static.
      size: number of coordinates to keep, 1 <= size <= D, static.

    Returns:
      `[B, size]`, dtype of the features. The coordinates differ between sources, so compare rows of one source only.

    Raises:
      TypeError: if the domains are not integer or a count is not a static int.
      ValueError: if shapes do not match, `num_domains` < 1 or size is not in [1, D].

    References:
      Nguyen et al., ICLR 2025 (arXiv 2407.19580).

    Examples:
      >>> features = jnp.array([[1.0, 5.0], [2.0, 7.0], [9.0, 0.0]])
      >>> largest_features_by_domain(features, jnp.array([0, 0, 1]), num_domains=2, size=1)[:, 0].tolist()
      [5.0, 7.0, 9.0]
    """
    check_shape("features", features, (None, None))
    check_shape("domains", domains, features.shape[:1])
    check_integer("domains", domains)
    check_count("num_domains", num_domains)
    check_count("size", size, features.shape[1], "the number of coordinates")
    domains = as_index(domains)
    sums = jax.ops.segment_sum(features.astype(weight_dtype(features.dtype)), domains, num_domains)
    _, coordinates = jax.lax.top_k(jnp.abs(sums), size)
    return jnp.take_along_axis(features, coordinates[domains], axis=1)


def domain_budgets(counts: jax.Array, budget: jax.Array | int) -> jax.Array:
    """Return how many examples to keep of each source, in proportion to its size.

    The proportional shares are rounded down. The places left go to the smallest sources that have examples left, one
    each; of equal sources the first comes first.

    Args:
      counts: `[K]` int, at least 0, number of examples of each source.
      budget: number to keep in all, int or `[]` int, at least 0; more than the sum of the counts means all.

    Returns:
      `[K]` int32, at most the counts, summing to the budget.

    Raises:
      TypeError: if the counts are not integer.
      ValueError: if the counts are not `[K]`.

    References:
      Nguyen et al., ICLR 2025 (arXiv 2407.19580).

    Examples:
      >>> domain_budgets(jnp.array([10, 3, 0, 1]), 6).tolist()
      [4, 1, 0, 1]
    """
    check_shape("counts", counts, (None,))
    check_integer("counts", counts)
    counts = counts.astype(jnp.int32)
    total = jnp.sum(counts, dtype=jnp.int32)
    budget = jnp.minimum(jnp.asarray(budget, jnp.int32), total)
    shares = counts * budget // jnp.maximum(total, 1)
    order = jnp.argsort(jnp.where(counts > shares, counts, jnp.iinfo(jnp.int32).max), stable=True)
    rank = jnp.zeros_like(counts).at[order].set(jnp.arange(counts.shape[0], dtype=jnp.int32))
    return shares + (rank < budget - jnp.sum(shares, dtype=jnp.int32)).astype(jnp.int32)


def keep_by_colm(
    k: int, num_domains: int, *, keep_domains: Sequence[int] = (), metric: str = "l1", weighting: str = "own"
) -> optax.GradientTransformationExtraArgs:
    """Keep k examples of a mixture: some sources whole, medoids of others. Signals: `features` [B, D], `domains` [B].

    List the small sources in `keep_domains`: their proportional share could round down to 0. If their examples alone
    are more than k, the first k of them are kept. The other sources share the remaining places in proportion to their
    size. Examples with a feature that is not finite, or with a squared norm that overflows (except for "cosine"), are
    dropped. With k at half of the batch the gain over plain
    medoids is small; at an eighth it is clear.

    Args:
      k: how many to keep, 1 <= k <= B, static; fewer are kept if fewer exist.
      num_domains: domains lie in [0, num_domains), static; examples of other domains are dropped.
      keep_domains: domains that are kept whole, static.
      metric: similarity of two examples, "l1", "sqeuclidean", "euclidean" or "cosine", defined by `similarity_matrix`.
      weighting: what a kept example weighs: "own", as it came (as published), or "represented", the weights of all
        that it represents.

    Returns:
      A transformation over `[B]` weights. O(k B^2) time and O(B^2) memory.

    Raises:
      TypeError: if a count is not a static int or, in `update`, the domains are not integer.
      ValueError: if a count is below 1, a kept domain is not in [0, num_domains), the metric is unknown or, in
        `update`, k > B or shapes do not match.

    References:
      Nguyen et al., ICLR 2025 (arXiv 2407.19580).

    Examples:
      >>> tx = keep_by_colm(k=2, num_domains=2, keep_domains=(1,))
      >>> features, domains = jnp.array([[0.0], [1.0], [2.0], [9.0]]), jnp.array([0, 0, 0, 1])
      >>> tx.update(jnp.ones(4), tx.init(jnp.ones(4)), features=features, domains=domains)[0].tolist()
      [0.0, 1.0, 0.0, 1.0]
    """
    check_choice("weighting", weighting, ("own", "represented"))
    check_count("k", k)
    check_count("num_domains", num_domains)
    check_choice("metric", metric, METRICS)
    for domain in keep_domains:
        check_number("keep_domains", domain, 0, num_domains - 1)

    def update(weights, state, params=None, *, features, domains, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        check_shape("domains", domains, weights.shape)
        check_integer("domains", domains)
        check_count("k", k, weights.shape[0], "the number of weights")
        of_domain = (weights != 0) & (domains >= 0) & (domains < num_domains)
        features, exists = usable_features(features, of_domain, metric=metric)
        whole = exists & jnp.isin(domains, jnp.asarray(keep_domains, domains.dtype))
        whole &= jnp.cumsum(whole) <= k
        rest = exists & ~jnp.isin(domains, jnp.asarray(keep_domains, domains.dtype))
        counts = jnp.zeros(num_domains, jnp.int32).at[domains].add(rest.astype(jnp.int32), mode="drop")
        budgets = domain_budgets(counts, k - jnp.sum(whole, dtype=jnp.int32))
        represented = jnp.where(rest, weights, 0)
        medoids = _medoids_by_source(features, domains, rest, represented, budgets, k, metric)
        moved = medoid_weights(medoids, item_weights=represented)
        chosen = (
            jnp.zeros_like(weights).at[medoids.indices].set(moved if weighting == "represented" else 1.0, mode="drop")
        )
        return jnp.where(whole, weights, chosen if weighting == "represented" else chosen * weights), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def _medoids_by_source(
    features: jax.Array,
    domains: jax.Array,
    exists: jax.Array,
    weights: jax.Array,
    budgets: jax.Array,
    k: int,
    metric: str,
) -> _greedy.Medoids:
    """Choose medoids of all sources in one greedy: an example represents its own source, and only sources with a budget
    left are open.
    """
    nearness = nearness_matrix(features, exists, metric).astype(weights.dtype)
    start = _greedy.start(jnp.full_like(weights, -jnp.inf), k), exists, budgets
    return fori_loop(0, k, bind(_take_within_budgets, nearness, domains, weights), start)[0].chosen


def _take_within_budgets(nearness, domains, weights, t, state):
    greedy, free, budgets = state
    gains = _greedy.gains_within(nearness, greedy.best, weights, domains)
    gain, j = first_max(jnp.where(free & (budgets[domains] > 0), gains, -jnp.inf))
    row = jnp.where(domains == domains[j], nearness[j], -jnp.inf)
    greedy = _greedy.take(greedy, t, j, gain, row, weights.shape[0])
    used = (gain > -jnp.inf).astype(jnp.int32)
    return greedy, free.at[j].set(False), budgets.at[domains[j]].add(-used)
