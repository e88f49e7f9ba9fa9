"""Sums of exponentials over the masked entries of each row, with finite gradients also for rows without any."""

import jax
import jax.numpy as jnp


def log_sum_exp(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Return log(sum exp) over the masked entries of each row; 0 with gradient 0, not -inf, for an empty row."""
    return _log_sum_exp(values, mask, plus_one=False)


def log1p_sum_exp(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Return log(1 + sum exp) over the masked entries of each row."""
    return _log_sum_exp(values, mask, plus_one=True)


def softplus_where(mask: jax.Array, values: jax.Array) -> jax.Array:
    """Return log(1 + exp(.)) of the masked entries; 0 with gradient 0 elsewhere."""
    return jnp.where(mask, jax.nn.softplus(jnp.where(mask, values, 0)), 0)


def _log_sum_exp(values, mask, plus_one):
    lowest = 0.0 if plus_one else -jnp.inf
    largest = jnp.max(jax.lax.stop_gradient(values), axis=1, keepdims=True, where=mask, initial=lowest)
    shift = jnp.where(jnp.isfinite(largest), largest, 0)
    terms = jnp.where(mask, jnp.exp(jnp.where(mask, values - shift, 0)), 0)
    total = jnp.sum(terms, axis=1)
    if plus_one:
        total += jnp.exp(-shift[:, 0])
    empty = total == 0
    return jnp.where(empty, 0, jnp.log(jnp.where(empty, 1, total)) + shift[:, 0])
