"""Triplets of a positive pair and one random negative: the uninformed baseline of mining.

Method: random triplets, the uninformed baseline
Experiment: triplet_mining
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_number
from minibatch_jax._loops import bind
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax.mining._pairs import finite_pairs
from minibatch_jax.mining.miners._lifts import pairs_of_weights, scaled
from minibatch_jax.weights import KeyState, weight_transformation


def random_triplet_weights(
    key: jax.Array | int,
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 0.2,
) -> jax.Array:
    """Return how often each pair is in an active triplet of one random negative per positive pair, over their number.

    Args:
      key: typed PRNG key or int seed.
      distances: `[A, M]`, floating point; pairs of non-finite distance take part in no triplet.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      margin: a triplet is active if d_ap - d_an + margin > 0; infinite to let every triplet count.

    Returns:
      `[A, M]`, at least 0, float32 (float64 if the distances are).

    Raises:
      TypeError: if the distances are not floating point, the masks not bool or the key is a raw array.
      ValueError: if shapes do not match or the margin is not a number.

    Examples:
      >>> distances = jnp.array([[0.0, 0.5, 0.6]])
      >>> positives, negatives = jnp.array([[False, True, False]]), jnp.array([[False, False, True]])
      >>> random_triplet_weights(0, distances, positives, negatives).tolist()
      [[0.0, 1.0, 1.0]]
    """
    check_number("margin", margin)
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    drawn = bind(_draw_triplets, jnp.asarray(margin, distances.dtype))
    counts, active = map_row_blocks(drawn, (distances, positives, negatives), key=as_key(key))
    return counts / jnp.maximum(jnp.sum(active), 1)


def _draw_triplets(margin, key, distances, positives, negatives):
    """Return how often each pair is in an active triplet, and the number of active triplets of each anchor."""
    places = jnp.cumsum(negatives.astype(jnp.int32), axis=1)
    drawn = jax.random.randint(key, distances.shape, 0, jnp.maximum(places[:, -1:], 1), jnp.int32)
    columns = jax.vmap(lambda p, d: jnp.searchsorted(p, d, side="right"))(places, drawn)
    columns = jnp.minimum(columns, distances.shape[1] - 1)
    excess = distances - jnp.take_along_axis(distances, columns, axis=1) + margin
    active = (positives & (places[:, -1:] > 0) & (excess > 0)).astype(distances.dtype)
    anchors = jnp.arange(distances.shape[0])[:, None]
    return active.at[anchors, columns].add(active), jnp.sum(active, axis=1)


def mine_random(key: jax.Array | int, margin: float = 0.2) -> optax.GradientTransformationExtraArgs:
    """Weigh each positive pair with one random negative of its anchor. Weights `[A, M]`; signals `distances`, `labels`.

    The negative is drawn uniformly. The weight of a pair is how often it is in an active triplet, divided by the number
    of active triplets, as for the other miners.

    Args:
      key: typed PRNG key or int seed.
      margin: float, a triplet is active if d_ap - d_an + margin > 0; infinite to let every triplet count.

    Returns:
      A transformation of weights `[A, M]` with `rng_key` in its state.

    Raises:
      TypeError: if the key is a raw array.
      ValueError: if the margin is not a number.

    Examples:
      >>> tx = mine_random(key=0)
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.5, 0.6], [0.5, 0.0, 0.9], [0.6, 0.9, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    check_number("margin", margin)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, distances, positives, negatives, **extra_args):
        next_key, draw_key = jax.random.split(state.rng_key)
        pairs = pairs_of_weights(weights, distances, positives, negatives)
        return scaled(weights, random_triplet_weights(draw_key, *pairs, margin=margin)), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)
