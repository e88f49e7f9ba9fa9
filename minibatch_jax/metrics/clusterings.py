"""How well a clustering agrees with labels: normalized and adjusted mutual information.

References:
  Vinh et al., Information theoretic measures for clusterings comparison, JMLR 2010.

Method: mutual information of clusterings
Experiment: subsets_of_a_pool
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_integer, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import class_numbers


class MutualInformation(NamedTuple):
    """Agreement of two labelings.

    Attributes:
      normalized: `[]` float32 in [0, 1], the mutual information over the mean of both entropies (NMI).
      adjusted: `[]` float32, at most 1, the same with what random labelings of these sizes share taken off both (AMI);
        0 on average for those.
    """

    normalized: jax.Array
    adjusted: jax.Array


def mutual_information(labels: jax.Array, clusters: jax.Array, num_labels: int, num_clusters: int) -> MutualInformation:
    """Return the normalized and the adjusted mutual information of labels and clusters.

    Cluster the embeddings with `assign_rows` and centers of your choice, such as those of scikit-learn's k-means. Two
    labelings that both have a single class agree: 1.

    Args:
      labels: `[N]` int in [0, num_labels); an example with another label or cluster is left out.
      clusters: `[N]` int in [0, num_clusters).
      num_labels: static.
      num_clusters: static.

    Returns:
      `MutualInformation(normalized, adjusted)`, 0 without examples. O(N + num_labels x num_clusters x size) time, where
      size is that of the largest class or cluster that could meet.

    Raises:
      TypeError: if labels or clusters are not integers or a count not a static int.
      ValueError: if shapes do not match or a count is below 1.

    References:
      Vinh et al., Information theoretic measures for clusterings comparison, JMLR 2010.

    Examples:
      >>> found = mutual_information(jnp.array([0, 0, 1, 1]), jnp.array([1, 1, 0, 0]), 2, 2)
      >>> round(float(found.normalized), 4), round(float(found.adjusted), 4)
      (1.0, 1.0)
    """
    check_shape("labels", labels, (None,))
    check_shape("clusters", clusters, labels.shape)
    check_integer("labels", labels)
    check_integer("clusters", clusters)
    check_count("num_labels", num_labels)
    check_count("num_clusters", num_clusters)
    rows, columns = class_numbers(labels, num_labels), class_numbers(clusters, num_clusters)
    table = jnp.zeros((num_labels, num_clusters)).at[rows, columns].add(1, mode="drop")
    a, b, total = jnp.sum(table, axis=1), jnp.sum(table, axis=0), jnp.maximum(jnp.sum(table), 1)
    entropies = _entropy(a / total), _entropy(b / total)
    shared = entropies[0] + entropies[1] - _entropy((table / total).reshape(-1))
    mean = (entropies[0] + entropies[1]) / 2
    chance = _expected(a, b, total)
    alike = (mean == 0) & (jnp.sum(table) > 0)
    apart = mean - chance
    normalized = jnp.where(mean > 0, jnp.clip(shared, 0) / jnp.where(mean > 0, mean, 1), 0)
    adjusted = (shared - chance) / jnp.where(jnp.abs(apart) > 1e-6, apart, 1e-6)
    return MutualInformation(jnp.where(alike, 1, normalized), jnp.where(alike, 1, jnp.where(mean > 0, adjusted, 0)))


def _entropy(shares: jax.Array) -> jax.Array:
    return -jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.where(shares > 0, shares, 1)), 0))


class _Chance(NamedTuple):
    """Sums over the numbers of examples that a class and a cluster could share, `[num_labels, num_clusters]` each.

    Attributes:
      log_share: log of the probability of the present number, up to a constant.
      largest: largest such log so far.
      mass: sum of the probabilities, in units of the largest.
      information: sum of probability x information.
    """

    log_share: jax.Array
    largest: jax.Array
    mass: jax.Array
    information: jax.Array


def _expected(a: jax.Array, b: jax.Array, total: jax.Array) -> jax.Array:
    """Return the mutual information that random labelings of these sizes share on average.

    The probabilities are hypergeometric. Ratios of neighbors give them without factorials, whose logs float32 rounds.
    """
    zeros = jnp.zeros((a.shape[0], b.shape[0]), a.dtype)
    largest = jnp.max(jnp.minimum(a[:, None], b[None, :])).astype(jnp.int32)
    start = _Chance(zeros, jnp.full_like(zeros, -jnp.inf), zeros, zeros)
    sums = fori_loop(0, largest + 1, bind(_add_count, a, b, total), start)
    return jnp.sum(jnp.where(sums.mass > 0, sums.information / jnp.where(sums.mass > 0, sums.mass, 1), 0))


def _add_count(a, b, total, count, sums):
    a, b, n = a[:, None], b[None, :], jnp.asarray(count, a.dtype)
    possible = (n >= a + b - total) & (n <= a) & (n <= b) & (a > 0) & (b > 0)
    log_share = jnp.where(possible, sums.log_share, -jnp.inf)
    largest = jnp.maximum(sums.largest, log_share)
    fade = jnp.where(sums.largest > -jnp.inf, jnp.exp(sums.largest - jnp.where(possible, largest, sums.largest)), 0)
    share = jnp.where(possible, jnp.exp(jnp.where(possible, log_share - largest, 0)), 0)
    information = n / total * jnp.log(jnp.maximum(n, 1) * total / jnp.where(possible, a * b, 1))
    ratio = (a - n) * (b - n) / ((n + 1) * jnp.maximum(total - a - b + n + 1, 1))
    more = possible & (ratio > 0)
    return _Chance(
        jnp.where(more, sums.log_share + jnp.log(jnp.where(more, ratio, 1)), sums.log_share),
        largest,
        sums.mass * fade + share,
        sums.information * fade + share * jnp.where(n > 0, information, 0),
    )
