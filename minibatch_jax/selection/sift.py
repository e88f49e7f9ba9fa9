"""Which examples of a pool tell most about a query: active fine-tuning (SIFT).

The model is approximated by a Gaussian process whose kernel is the inner product of unit embeddings. Examples are
chosen one by one, each so that the variance left at the queries is least. Observations are noisy, so an example may be
chosen again.

References:
  Hübotter et al., Efficiently learning at test-time: active fine-tuning of LLMs, ICLR 2025 (arXiv 2410.08020).

Method: SIFT
Paper: 2410.08020
Experiment: active_fine_tuning
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_number, check_shape
from minibatch_jax._loops import bind, scan
from minibatch_jax._vector import first_max
from minibatch_jax.geometry import product, unit_rows
from minibatch_jax.selection._similarities import usable_features


class Sift(NamedTuple):
    """A sequence of chosen examples, and the variance that remains after each.

    Attributes:
      indices: `[k]` int32, in order of the choice, with repeats; B if no example may be chosen.
      variances: `[k]`, variance left after each choice, summed over the queries.
      kept: `[k]` bool, False from the place where the adaptive stop ends the sequence; all True without a stop.
    """

    indices: jax.Array
    variances: jax.Array
    kept: jax.Array


def sift_indices(
    features: jax.Array,
    queries: jax.Array,
    k: int,
    *,
    noise: float = 0.01,
    stop: float | None = None,
    where: jax.Array | None = None,
) -> Sift:
    """Choose k examples, one after the other, that leave the least variance at the queries.

    A small `noise` makes the choice diverse; a large one repeats the example nearest to the queries. Ties go to the
    lowest index. O(k B D + k^2 B) time, O(B (D + Q + k)) memory.

    Args:
      features: `[B, D]`, floating point, embeddings of the pool, which this function scales to unit length; an example
        whose row is not finite is never chosen.
      queries: `[Q, D]`, floating point, embeddings of the queries, which this function scales to unit length; a query
        that is not finite does not count.
      k: how many to choose, at least 1, static; k may be larger than B, because examples may be repeated.
      noise: variance of an observation, positive.
      stop: keep the n-th choice only while `sqrt(variance) <= 1 / (stop * n)`, positive; None for no stop.
      where: `[B]` bool, which examples may be chosen; all by default.

    Returns:
      Indices, variances and which to keep, `[k]` each. `jnp.zeros(B).at[indices].add(1)` counts the choices.

    Raises:
      TypeError: if an input is not floating point or k is not a static int.
      ValueError: if shapes do not match, k < 1 or `noise` or `stop` is not positive.

    References:
      Hübotter et al., ICLR 2025 (arXiv 2410.08020).

    Examples:
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> sift_indices(features, jnp.array([[1.0, 1.0]]), k=3).indices.tolist()
      [0, 2, 0]
    """
    check_count("k", k)
    check_number("noise", noise, 0, open_low=True)
    if stop is not None:
        check_number("stop", stop, 0, open_low=True)
    pool, allowed = usable_features(features, where, metric="cosine")
    targets, _ = usable_features(queries, name="queries", metric="cosine")
    check_shape("queries", queries, (None, features.shape[1]))
    pool, targets = unit_rows(pool), unit_rows(targets).astype(pool.dtype)
    whitened = jnp.zeros((pool.shape[0], k), pool.dtype)
    start = product(pool, targets.T), jnp.sum(pool**2, 1), whitened, jnp.sum(targets**2)
    _, (indices, variances) = scan(bind(_observe_best, pool, allowed, noise), start, jnp.arange(k))
    if stop is None:
        return Sift(indices, variances, jnp.ones(k, bool))
    pays = jnp.sqrt(variances) <= 1 / (stop * jnp.arange(1, k + 1, dtype=pool.dtype))
    return Sift(indices, variances, jnp.cumsum(~pays) == 0)


def _observe_best(pool, allowed, noise, state, t):
    cross, diagonal, whitened, left = state
    gains = jnp.sum(cross**2, 1) / (diagonal + noise)
    gain, j = first_max(jnp.where(allowed, gains, -jnp.inf))
    valid = gain > -jnp.inf
    scale = jnp.where(valid, 1 / jnp.sqrt(diagonal[j] + noise), 0)
    new = (product(pool, pool[j]) - product(whitened, whitened[j])) * scale
    seen = cross[j] * scale
    cross = cross - new[:, None] * seen[None]
    diagonal = jnp.maximum(diagonal - new**2, 0)
    left = jnp.maximum(left - jnp.sum(seen**2), 0)
    return (cross, diagonal, whitened.at[:, t].set(new), left), (jnp.where(valid, j, pool.shape[0]), left)
