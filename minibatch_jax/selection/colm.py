"""CoLM: a smaller batch from a mixture of sources, with small sources whole and medoids of large ones.

References:
  Nguyen et al., Mini-batch coresets for memory-efficient language model training on data mixtures, ICLR 2025
  (arXiv 2407.19580).

Method: CoLM
Paper: 2407.19580
Experiment: mixture_coreset
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_floating, check_integer, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import as_index, first_max
from minibatch_jax.geometry import product
from minibatch_jax.selection import _greedy
from minibatch_jax.selection._similarities import METRICS, nearness_matrix, usable_features
from minibatch_jax.selection.coresets import medoid_weights
from minibatch_jax.weights import weight_dtype, weight_transformation


class Moments(NamedTuple):
    """Adam's moments of the gradient estimates of the examples that were chosen.

    Attributes:
      mean: `[D]`, moving average of the estimates.
      variance: `[D]`, moving average of their squares.
      updates: `[]` int32, number of updates so far.
    """

    mean: jax.Array
    variance: jax.Array
    updates: jax.Array


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
    k: int,
    num_domains: int,
    *,
    keep_domains: Sequence[int] = (),
    num_features: int | None = None,
    moments: str = "own",
    num_coordinates: int | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    metric: str = "l1",
    weighting: str = "own",
) -> optax.GradientTransformationExtraArgs:
    """Keep k examples of a mixture: some sources whole, medoids of others. Signals: `features` [B, D], `domains` [B].

    As published, the features are gradients of one parameter, as `scores.zeroth_order_features` estimates them. Then
    say their size `num_features`: the update that Adam would make from each example is compared, on the
    `num_coordinates` coordinates that are largest for its source. Adam's moments follow the medoids that were kept.
    Before its first update, Adam's updates would be signs, which tie: then the gradients themselves are compared.
    Without `num_features`, examples are compared by their features as they are.

    List the small sources in `keep_domains`: their proportional share could round down to 0. If their examples alone
    are more than k, the first k of them are kept. The other sources share the remaining places in proportion to their
    size. Examples with a feature that is not finite, or with a squared norm that overflows (except for "cosine"), are
    dropped. With k at half of the batch the gain over plain medoids is small; at an eighth it is clear.

    Args:
      k: how many to keep, 1 <= k <= B, static; fewer are kept if fewer exist.
      num_domains: domains lie in [0, num_domains), static; examples of other domains are dropped.
      keep_domains: domains that are kept whole, static.
      num_features: D, static, for features that are gradients; by default they are compared as they are.
      moments: whose moments turn gradients into updates of Adam: "own" for those of the medoids kept so far, in the
        state, "given" for those of the signal `moments`, a tuple (mean, variance, count) of this parameter in the state
        of the optimizer, in the shape of the parameter or flat.
      num_coordinates: number of coordinates to compare, those of each source by `largest_features_by_domain`, static;
        all by default (2560 as published).
      b1: decay of Adam's first moment, in [0, 1).
      b2: decay of Adam's second moment, in [0, 1).
      eps: added to the square root of Adam's second moment, positive.
      metric: similarity of two examples, "l1", "sqeuclidean", "euclidean" or "cosine", defined by `similarity_matrix`.
      weighting: what a kept example weighs: "own", as it came (as published), or "represented", the weights of all
        that it represents.

    Returns:
      A transformation over `[B]` weights. O(k B^2) time and O(B^2) memory. Its state is `Moments` if it has its own.

    Raises:
      TypeError: if a count is not a static int or, in `update`, the domains are not integer.
      ValueError: if a count is below 1, a kept domain is not in [0, num_domains), an option is unknown, `num_features`
        is said though the moments are given or, in `update`, k > B, shapes do not match or more coordinates are to be
        compared than there are.

    References:
      Nguyen et al., ICLR 2025 (arXiv 2407.19580).

    Examples:
      >>> tx = keep_by_colm(k=2, num_domains=2, keep_domains=(1,))
      >>> features, domains = jnp.array([[0.0], [1.0], [2.0], [9.0]]), jnp.array([0, 0, 0, 1])
      >>> tx.update(jnp.ones(4), tx.init(jnp.ones(4)), features=features, domains=domains)[0].tolist()
      [0.0, 1.0, 0.0, 1.0]

      Features as gradients, of which Adam's moments are kept:

      >>> tx = keep_by_colm(k=2, num_domains=2, keep_domains=(1,), num_features=1)
      >>> _, state = tx.update(jnp.ones(4), tx.init(jnp.ones(4)), features=features, domains=domains)
      >>> round(float(state.mean[0]), 3), int(state.updates)
      (0.1, 1)
    """
    check_choice("weighting", weighting, ("own", "represented"))
    check_choice("moments", moments, ("own", "given"))
    check_count("k", k)
    check_count("num_domains", num_domains)
    check_choice("metric", metric, METRICS)
    for domain in keep_domains:
        check_number("keep_domains", domain, 0, num_domains - 1)
    for name, decay in (("b1", b1), ("b2", b2)):
        check_number(name, decay, 0, 1, open_high=True)
    check_number("eps", eps, 0, open_low=True)
    for name, size in (("num_features", num_features), ("num_coordinates", num_coordinates)):
        if size is not None:
            check_count(name, size)
    if num_features is not None and moments == "given":
        raise ValueError(f"num_features is {num_features} with moments='given', wanted None: the signal has the size.")

    def choose(weights, features, domains, before):
        """Return the new weights, and the moments after the choice; without moments features are as they come."""
        check_shape("features", features, (*weights.shape, num_features))
        check_shape("domains", domains, weights.shape)
        check_integer("domains", domains)
        check_count("k", k, weights.shape[0], "the number of weights")
        exists, compared = (weights != 0) & (domains >= 0) & (domains < num_domains), features
        if before is not None:
            features = features.astype(before.mean.dtype)
            exists &= jnp.isfinite(features**2).all(1)
            first = before.updates == 0  # then Adam's updates are signs, which tie
            compared = jnp.where(first, features, adam_features(features, *before, b1=b1, b2=b2, eps=eps))
        compared, exists = usable_features(compared, exists, metric=metric)
        if num_coordinates is not None:
            compared = largest_features_by_domain(compared, domains, num_domains, num_coordinates)
        kept, are_medoids = keep(weights, compared, domains, exists)
        if before is None:
            return kept, None
        mean, square = (_mean_of(x, are_medoids & (kept != 0)) for x in (features, features**2))
        after = Moments(
            b1 * before.mean + (1 - b1) * mean, b2 * before.variance + (1 - b2) * square, before.updates + 1
        )
        return kept, jax.tree.map(lambda new, old: jnp.where(jnp.any(are_medoids), new, old), after, before)

    def keep(weights, compared, domains, exists):
        """Return the new weights, and which examples were chosen as medoids."""
        small = jnp.isin(domains, jnp.asarray(keep_domains, domains.dtype))
        whole = exists & small
        whole &= jnp.cumsum(whole) <= k
        rest = exists & ~small
        counts = jnp.zeros(num_domains, jnp.int32).at[domains].add(rest.astype(jnp.int32), mode="drop")
        budgets = domain_budgets(counts, k - jnp.sum(whole, dtype=jnp.int32))
        represented = jnp.where(rest, weights, 0)
        medoids = _medoids_by_source(compared, domains, rest, represented, budgets, k, metric)
        are_medoids = jnp.zeros(weights.shape, bool).at[medoids.indices].set(True, mode="drop")
        weighs = weights
        if weighting == "represented":
            moved = medoid_weights(medoids, item_weights=represented)
            weighs = jnp.zeros_like(weights).at[medoids.indices].set(moved, mode="drop")
        return jnp.where(whole, weights, jnp.where(are_medoids, weighs, 0)), are_medoids

    def update(weights, state, params=None, *, features, domains, **extra_args):
        kept, after = choose(weights, features, domains, None if num_features is None else state)
        return kept, state if after is None else after

    def init(weights):
        if num_features is None:
            return optax.EmptyState()
        zeros = jnp.zeros(num_features, weight_dtype(weights.dtype))
        return Moments(zeros, zeros, jnp.zeros((), jnp.int32))

    return weight_transformation(init, update if moments == "own" else _update_with_given_moments(choose))


def _update_with_given_moments(choose: Callable[..., tuple[jax.Array, Any]]) -> Callable[..., tuple[jax.Array, Any]]:
    def update(weights, state, params=None, *, features, domains, moments, **extra_args):
        return choose(weights, features, domains, _as_moments(moments, features.shape[1:]))[0], state

    return update


def _as_moments(moments: Any, shape: tuple[int, ...]) -> Moments:
    """Return given moments with arrays of any shape as vectors."""
    if len(moments) != 3:
        raise ValueError(f"moments has {len(moments)} entries, wanted three: mean, variance and count.")
    mean, variance, count = map(jnp.asarray, moments)
    for name, array in (("mean", mean), ("variance", variance)):
        check_shape(f"moments, {name}", array.reshape(-1), shape)
        check_floating(f"moments, {name}", array)
    dtype = weight_dtype(mean.dtype)
    return Moments(mean.reshape(-1).astype(dtype), variance.reshape(-1).astype(dtype), count)


def _mean_of(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Return the mean of some rows, 0 if there are none; other rows may hold anything."""
    share = rows.astype(x.dtype) / jnp.maximum(jnp.sum(rows), 1).astype(x.dtype)
    return product(share, jnp.where(rows[:, None], x, 0))


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
