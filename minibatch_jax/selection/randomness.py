"""Keep k examples at random: the baseline of every selection, at an equal number of gradient rows.

Method: random subset, the uninformed baseline
Experiment: quarter_of_a_batch
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import KeyState, weight_transformation


def keep_random(k: int, key: jax.Array | int) -> optax.GradientTransformationExtraArgs:
    """Keep k examples drawn uniformly without replacement, weights unchanged; the others get 0. No signal.

    Only examples with a nonzero weight are drawn; if there are fewer than k, all of them are kept. Chain with
    `normalize()` for the mean loss over the kept examples.

    Args:
      k: how many to keep, 1 <= k <= B, static.
      key: typed PRNG key or int seed.

    Returns:
      A transformation over `[B]` weights with `rng_key` in its state.

    Raises:
      TypeError: if k is not a static int or the key is a raw array.
      ValueError: if k < 1 or, in `update`, k > B.

    Examples:
      >>> tx = keep_random(2, key=0)
      >>> weights = jnp.array([0.25, 0.25, 0.25, 0.0])
      >>> kept, _ = tx.update(weights, tx.init(weights))
      >>> float(kept.sum()), float(kept[3])
      (0.5, 0.0)
    """
    check_count("k", k)
    rng_key = as_key(key)

    def update(weights, state, params=None, **extra_args):
        next_key, draw_key = jax.random.split(state.rng_key)
        order = jax.random.uniform(draw_key, weights.shape, weights.dtype)
        return jnp.where(topk_mask(order, k, where=weights != 0), weights, 0), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)
