"""Which few items of a benchmark to run, and how much each counts: anchors of clusters of items (MiniLongBench).

The answers of earlier models to all items are a record. Items on which these models do alike are near each other in it,
so one item can stand for a cluster of them, with the mass of the cluster. Items are described by the columns of the
record, by its leading principal components, or by the parameters of `item_response`. Random items with the plain mean
are the baseline: from some hundred items on it is as good.

References:
  Huang et al., MiniLongBench: the low-cost long context understanding benchmark for large language models, ACL 2025
  (arXiv 2505.19959).
  Polo et al., tinyBenchmarks: evaluating LLMs with fewer examples, ICML 2024 (arXiv 2402.14992).

Method: anchor items
Paper: 2505.19959
Experiment: anchor_items
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import as_key, check_count, check_floating, check_integer, check_shape
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.selection._similarities import usable_features
from minibatch_jax.selection.k_means import k_means_clusters
from minibatch_jax.weights import weight_dtype


class AnchorItems(NamedTuple):
    """Items that stand for all.

    Attributes:
      indices: `[n]` int32, distinct; N, one past the end, for a cluster without items.
      mass: `[n]`, what each stands for; sums to 1.
    """

    indices: jax.Array
    mass: jax.Array


def anchor_items(
    key: jax.Array | int,
    features: jax.Array,
    quotas: int | tuple[int, ...],
    *,
    groups: jax.Array | None = None,
    item_weights: jax.Array | None = None,
    max_iterations: int = 50,
) -> AnchorItems:
    """Choose the item nearest to the center of each cluster, with the weight of the cluster as its mass.

    Clusters are those of `k_means_clusters`, in each group for itself. An item whose features are not finite is in no
    cluster, and the anchors of its group share its weight.

    Args:
      key: int seed or key.
      features: `[N, D]`, floating point, what describes an item: `records.T` for a record `[M, N]` of M models.
      quotas: n, or how many anchors each group gets, static; `domain_budgets` divides a number in proportion.
      groups: `[N]` int, number of each item's group, with quotas for each; an item of no group does not count.
      item_weights: `[N]`, floating point, weight of an item in the mean that is wanted, by default equal; those not
        above 0 do not count.
      max_iterations: of the clusters, static.

    Returns:
      The anchors, those of a group one after another. A group with quota 0, or without items, does not count.

    Raises:
      TypeError: if an array has the wrong dtype, a count is not a static int or the key is no key.
      ValueError: if shapes do not match, there are more anchors than items, or groups come without quotas for each.

    References:
      Huang et al., ACL 2025 (arXiv 2505.19959).

    Examples:
      >>> record = jnp.array([[1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]])
      >>> found = anchor_items(0, record.T, 2)
      >>> [(item, round(mass, 2)) for item, mass in sorted(zip(found.indices.tolist(), found.mass.tolist()))]
      [(0, 0.4), (2, 0.6)]
    """
    rows, exists = usable_features(features)
    size = rows.shape[0]
    if item_weights is None:
        item_weights = jnp.ones(size, rows.dtype)
    check_shape("item_weights", item_weights, (size,))
    check_floating("item_weights", item_weights)
    weights = jnp.where(jnp.isfinite(item_weights) & (item_weights > 0), item_weights, 0).astype(rows.dtype)
    weights = weights / nonzero(jnp.max(weights))  # so that no sum overflows
    if groups is None:
        if not isinstance(quotas, int | np.integer):
            raise ValueError(f"quotas is {quotas!r}, wanted an int, as there are no groups.")
        quotas, groups = (quotas,), jnp.zeros(size, jnp.int32)
    if not isinstance(quotas, tuple):
        raise ValueError(f"quotas is {quotas!r}, wanted a tuple with a number for each group.")
    check_shape("groups", groups, (size,))
    check_integer("groups", groups)
    check_count("the sum of quotas", sum(quotas), size)
    numbers, key = class_numbers(jnp.asarray(groups), len(quotas)), as_key(key)
    parts = []
    for group, quota in enumerate(quotas):
        if quota:
            check_count("a quota", quota)
            mine = jnp.where(numbers == group, weights, 0)
            found = k_means_clusters(
                jax.random.fold_in(key, group), rows, quota, where=exists & (mine > 0), max_iterations=max_iterations
            )
            parts.append(_anchors_of(rows, mine, found.owners, found.centers))
    indices, mass = (jnp.concatenate(part) for part in zip(*parts, strict=True))
    return AnchorItems(indices, mass / nonzero(jnp.sum(mass)))


def anchor_mean(anchors: AnchorItems, scores: jax.Array) -> jax.Array:
    """Return the mean over all items as the anchors estimate it: the sum of mass times score.

    Args:
      anchors: of n items.
      scores: `[..., n]`, floating point, of the models to judge, on the anchors. What is not finite does not count, and
        the mass of the others is scaled up.

    Returns:
      `[...]`, float32 (float64 if the scores are); NaN without a finite score.

    Raises:
      TypeError: if the scores are not floating point.
      ValueError: if their number does not fit.

    References:
      Huang et al., ACL 2025 (arXiv 2505.19959).

    Examples:
      >>> float(anchor_mean(AnchorItems(jnp.array([4, 7]), jnp.array([0.25, 0.75])), jnp.array([1.0, 0.0])))
      0.25
    """
    check_floating("scores", scores)
    number = anchors.mass.shape[0]
    if scores.ndim < 1 or scores.shape[-1] != number:
        raise ValueError(f"scores has shape {list(scores.shape)}, wanted [..., {number}], the number of anchors.")
    scores = scores.astype(weight_dtype(scores.dtype))
    finite = jnp.isfinite(scores)
    mass = jnp.where(finite, jnp.broadcast_to(anchors.mass.astype(scores.dtype), scores.shape), 0)
    total = jnp.sum(mass, axis=-1)
    return jnp.where(total > 0, jnp.sum(jnp.where(finite, mass * scores, 0), axis=-1) / nonzero(total), jnp.nan)


def _anchors_of(rows, weights, owners, centers) -> tuple[jax.Array, jax.Array]:
    """Return the row of each cluster that is nearest to its center, and its part of all weights."""
    size, number = rows.shape[0], centers.shape[0]
    placed = owners >= 0
    cluster = jnp.where(placed, owners, number)
    known = jnp.concatenate([centers, jnp.zeros_like(centers[:1])])
    squared = jnp.where(placed, jnp.sum((rows - known[cluster]) ** 2, axis=1), jnp.inf)
    least = jnp.full(number + 1, jnp.inf, rows.dtype).at[cluster].min(squared)
    order = jnp.where(placed & (squared == least[cluster]), jnp.arange(size, dtype=jnp.int32), size)
    indices = jnp.full(number + 1, size, jnp.int32).at[cluster].min(order)[:number]
    mass = jnp.zeros(number + 1, rows.dtype).at[cluster].add(jnp.where(placed, weights, 0))[:number]
    return indices, mass * (jnp.sum(weights) / nonzero(jnp.sum(mass)))
