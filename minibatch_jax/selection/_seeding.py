"""Draws of k-means++: far from all that were drawn before, with a probability by the squared distance.

References:
  Arthur & Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import first_max

Distances = Callable[[jax.Array], jax.Array]


def spread_draws(key: jax.Array, squared_distances: Distances, first: jax.Array, free: jax.Array, k: int) -> jax.Array:
    """Draw k different items, each next one by its squared distance to the nearest one drawn before.

    Where all distances left are 0, draws are uniform.

    Args:
      key: typed PRNG key.
      squared_distances: `squared_distances(j []) -> [N]`, of item j to all items, bound to its arrays by `bind`.
      first: `[N]`, what the probability of the first item is proportional to, at least 0.
      free: `[N]` bool, what may be drawn.
      k: how many to draw, static.

    Returns:
      `[k]` int32, in order; N where nothing was left to draw.
    """
    size = free.shape[0]
    state = jnp.full(k, size, jnp.int32), jnp.full(size, jnp.inf, first.dtype), free
    return fori_loop(0, k, bind(_draw_next, key, squared_distances, first), state)[0]


def _draw_next(key, squared_distances, first, t, state):
    indices, nearest, free = state
    size = free.shape[0]
    gumbel = jax.random.gumbel(jax.random.fold_in(key, t), (size,), nearest.dtype)
    chances = jnp.where(free, jnp.where(t == 0, first, nearest), 0)
    log_chances = jnp.where(jnp.any(chances > 0), jnp.log(chances), 0)
    score, j = first_max(jnp.where(free, log_chances + gumbel, -jnp.inf))
    valid = score > -jnp.inf
    nearest = jnp.minimum(nearest, jnp.where(valid, squared_distances(j), jnp.inf))
    return indices.at[t].set(jnp.where(valid, j, size)), nearest, free.at[j].set(False)
