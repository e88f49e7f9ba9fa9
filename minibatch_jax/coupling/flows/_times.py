"""The times at which paths of pairs are evaluated."""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_shape


def times_of_pairs(key: jax.Array, x0: jax.Array, t: jax.Array | None, dtype: jnp.dtype) -> jax.Array:
    """Return the times, one for each pair, uniform in [0, 1) if none are given. Raise unless they are `[S]`."""
    times = jax.random.uniform(key, x0.shape[:1], dtype) if t is None else jnp.asarray(t, dtype)
    check_shape("t", times, x0.shape[:1])
    return times
