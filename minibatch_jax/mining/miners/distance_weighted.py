"""Negatives drawn with the inverse density of distances on the sphere, so that all distances are seen alike.

References:
  Wu et al., Sampling matters in deep embedding learning, 2017 (arXiv 1706.07567).

Method: distance-weighted sampling, margin loss
Paper: 1706.07567
Experiment: zero_shot_retrieval
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax.mining._pairs import check_pairs
from minibatch_jax.mining.miners._lifts import pairs_of_weights, scaled
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation


def distance_weighted_logits(
    distances: jax.Array, negatives: jax.Array, dimension: int, *, nearest: float = 0.5, farthest: float = 1.4
) -> jax.Array:
    """Return the log of one over the density of each negative's distance between random points of the sphere.

    The logits are exact up to a constant.

    Args:
      distances: `[A, M]`, floating point, between vectors of length 1.
      negatives: `[A, M]` bool.
      dimension: number of entries of an embedding, static.
      nearest: in (0, 2], smaller distances count as this, which bounds the variance.
      farthest: in (0, 2], negatives at least this far are never drawn. Random points are 1.41
        apart: in high dimensions few negatives are left.

    Returns:
      `[A, M]`, -inf where a negative is never drawn; float32 (float64 if the distances are).

    Raises:
      TypeError: if the distances are not floating point, the mask not bool or the dimension not a static int.
      ValueError: if shapes do not match or a number is out of range.

    Examples:
      >>> distances = jnp.array([[0.3, 0.5, 1.0, 1.5]])
      >>> jnp.exp(distance_weighted_logits(distances, distances > 0, 3)).tolist()  # 1 / d in three dimensions
      [[2.0, 2.0, 1.0, 0.0]]
    """
    check_pairs("distances", distances, negatives, negatives)
    distances = distances.astype(weight_dtype(distances.dtype))
    check_count("dimension", dimension)
    check_number("nearest", nearest, 0, 2, open_low=True)
    check_number("farthest", farthest, 0, 2, open_low=True)
    allowed = negatives & (distances < farthest)
    d = jnp.where(allowed, jnp.maximum(distances, nearest), 1)
    rest = jnp.maximum(1 - d**2 / 4, jnp.finfo(d.dtype).tiny)
    logits = (2 - dimension) * jnp.log(d) - (dimension - 3) / 2 * jnp.log(rest)
    return jnp.where(allowed, logits, -jnp.inf)


def sample_negative_counts(key: jax.Array | int, logits: jax.Array, num_draws: jax.Array, max_draws: int) -> jax.Array:
    """Draw references of each anchor with replacement and count how often each was drawn.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      logits: `[A, M]`, floating point; -inf is never drawn.
      num_draws: `[A]` int, at most `max_draws`.
      max_draws: static upper bound; memory is O(A (M + max_draws)).

    Returns:
      `[A, M]`, in the dtype of the logits; rows sum to `num_draws`, or 0 where all logits are -inf. Draws and counts
      are made in float32 at least; in half precision a count of more than 256 or 2048 is rounded.

    Raises:
      TypeError: if the logits are not floating point or `max_draws` is not a static int.
      ValueError: if shapes do not match.

    Examples:
      >>> counts = sample_negative_counts(jax.random.key(0), jnp.array([[0.0, 0.0, -jnp.inf]]), jnp.array([5]), 8)
      >>> float(counts.sum()), float(counts[0, 2])
      (5.0, 0.0)
    """
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    check_shape("num_draws", num_draws, logits.shape[:1])
    check_count("max_draws", max_draws)
    wide = logits.astype(weight_dtype(logits.dtype))
    highest = jnp.max(wide, axis=1, keepdims=True)
    possible = jnp.isfinite(highest[:, 0])
    mass = jnp.cumsum(jnp.where(possible[:, None], jnp.exp(wide - highest), 0), axis=1)
    points = jax.random.uniform(as_key(key), (logits.shape[0], max_draws), mass.dtype) * mass[:, -1:]
    columns = jax.vmap(lambda m, p: jnp.searchsorted(m, p, side="right"))(mass, points)
    columns = jnp.minimum(columns, logits.shape[1] - 1)
    drawn = possible[:, None] & (jnp.arange(max_draws)[None, :] < num_draws[:, None]) & (mass[:, -1:] > points)
    rows = jnp.arange(logits.shape[0])[:, None]
    return jnp.zeros(logits.shape, jnp.int32).at[rows, columns].add(drawn.astype(jnp.int32)).astype(logits.dtype)


def mine_distance_weighted(
    dimension: int, key: jax.Array | int, *, nearest: float = 0.5, farthest: float = 1.4
) -> optax.GradientTransformationExtraArgs:
    """Pair every positive with a drawn negative of its anchor. Weights `[A, M]`; signals `distances`, `labels`.

    The weight of a pair is how often it is in a triplet, divided by the number of triplets. For the loss of the paper
    use the weights on the terms of `margin_loss(..., reduction="none")`.

    Args:
      dimension: number of entries of an embedding, static.
      key: int seed or typed key.
      nearest: float in (0, 2], smaller distances count as this.
      farthest: float in (0, 2], negatives at least this far are never drawn.

    Returns:
      A transformation of weights `[A, M]` with `rng_key` in its state.

    Raises:
      TypeError: if the dimension is not a static int or the key not a seed or typed key.
      ValueError: if a number is out of range.

    Examples:
      >>> tx = mine_distance_weighted(3, key=0)
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.9, 0.6], [0.9, 0.0, 0.7], [0.6, 0.7, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]
    """
    check_count("dimension", dimension)
    check_number("nearest", nearest, 0, 2, open_low=True)
    check_number("farthest", farthest, 0, 2, open_low=True)

    def init(weights):
        return KeyState(as_key(key))

    def update(weights, state, params=None, *, distances, positives, negatives, **extra_args):
        distances, positives, negatives = pairs_of_weights(weights, distances, positives, negatives)
        rng_key, draw_key = jax.random.split(state.rng_key)
        drawn = bind(_draw_negatives, nearest, farthest, dimension=dimension)
        counts, paired = map_row_blocks(drawn, (distances, positives, negatives), key=draw_key)
        return scaled(weights, counts / jnp.maximum(jnp.sum(paired), 1)), KeyState(rng_key)

    return weight_transformation(init, update)


def _draw_negatives(nearest, farthest, key, distances, positives, negatives, *, dimension):
    """Return how often each pair is in a triplet, and the number of triplets of each anchor."""
    logits = distance_weighted_logits(distances, negatives, dimension, nearest=nearest, farthest=farthest)
    num_positives = jnp.sum(positives.astype(jnp.int32), axis=1)
    counts = sample_negative_counts(key, logits, num_positives, distances.shape[1])
    paired = (positives & jnp.any(jnp.isfinite(logits), axis=1)[:, None]).astype(distances.dtype)
    return paired + counts, jnp.sum(paired, axis=1)
