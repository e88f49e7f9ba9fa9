"""Independent draws with given probabilities, rows chosen by number, and what a kept example weighs."""

import jax
import jax.numpy as jnp


def keep_with_probability(key: jax.Array, weights: jax.Array, probability: jax.Array, weighting: str) -> jax.Array:
    """Return the weights `[B]` of the kept examples, divided by their probability if weighting is "unbiased"."""
    kept = jax.random.uniform(key, weights.shape, weights.dtype) < probability
    scale = jnp.where(kept, probability, 1) if weighting == "unbiased" else 1.0
    return jnp.where(kept, weights / scale, 0)


def keep_rows(weights: jax.Array, indices: jax.Array) -> jax.Array:
    """Return the weights `[N]` of the rows at these indices, and 0 for others; indices past the end are ignored."""
    return jnp.where(jnp.zeros(weights.shape, bool).at[indices].set(True, mode="drop"), weights, 0)
