"""Which examples of a pool tell most about a query: active fine-tuning (SIFT).

A Gaussian process with the inner product of unit embeddings as kernel stands for the model; the examples are chosen one
by one so that the variance left at the queries is least. An example may be chosen again, as an observation is noisy.

References:
  Hübotter et al., Efficiently learning at test-time: active fine-tuning of LLMs, ICLR 2025 (arXiv 2410.08020).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_number, check_shape
from minibatch_jax._vector import first_max
from minibatch_jax.selection._similarity import product, unit_rows, usable_features


class Sift(NamedTuple):
    """A sequence of examples, and what each leaves unknown.

    Attributes:
      indices: `[k]` int32, in order, with repeats; B if no example may be chosen.
      variances: `[k]`, variance left at the queries after each, summed over them.
      kept: `[k]` bool, False from where the adaptive stop says that more does not pay; all True without it.
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

    The trade-off is in `noise`: little of it seeks diversity, much of it repeats the example nearest to the queries.
    O(k B D + k^2 B) time, O(B (D + Q + k)) memory.

    Args:
      features: `[B, D]`, floating point, embeddings of the pool, brought to unit length; an example whose row is not
        finite is never chosen.
      queries: `[Q, D]`, floating point, brought to unit length; one that is not finite does not count.
      k: how many to choose, static; may be larger than B, as examples may come again.
      noise: variance of an observation, positive.
      stop: keep the n-th only while `sqrt(variance) <= 1 / (stop * n)`; None for no stop.
      where: `[B]` bool, which examples may be chosen; all by default.

    Returns:
      Indices, variances and which to keep, `[k]` each. `jnp.zeros(B).at[indices].add(1)` counts them.

    Raises:
      TypeError: if an input is not floating point or k is not a static int.
      ValueError: if shapes do not match or `noise` or `stop` is not positive.

    Examples:
      >>> features = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> sift_indices(features, jnp.array([[1.0, 1.0]]), k=3).indices.tolist()
      [0, 2, 0]
    """
    check_count("k", k)
    check_number("noise", noise, 0, open_low=True)
    if stop is not None:
        check_number("stop", stop, 0, open_low=True)
    pool, allowed = usable_features(features, where)
    targets, _ = usable_features(queries, name="queries")
    check_shape("queries", queries, (None, features.shape[1]))
    pool, targets = unit_rows(pool), unit_rows(targets).astype(pool.dtype)
    size = pool.shape[0]

    def step(state, t):
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
        return (cross, diagonal, whitened.at[:, t].set(new), left), (jnp.where(valid, j, size), left)

    start = product(pool, targets.T), jnp.sum(pool**2, 1), jnp.zeros((size, k), pool.dtype), jnp.sum(targets**2)
    _, (indices, variances) = jax.lax.scan(step, start, jnp.arange(k))
    if stop is None:
        return Sift(indices, variances, jnp.ones(k, bool))
    pays = jnp.sqrt(variances) <= 1 / (stop * jnp.arange(1, k + 1, dtype=pool.dtype))
    return Sift(indices, variances, jnp.cumsum(~pays) == 0)
