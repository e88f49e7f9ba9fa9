"""Sums of exponentials over the masked entries of each row, with finite gradients also for rows without any."""

import jax
import jax.numpy as jnp


def log_sum_exp(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Return log(sum exp) over the masked entries of each row; 0 with gradient 0, not -inf, for an empty row."""
    largest = jnp.max(jax.lax.stop_gradient(values), axis=1, keepdims=True, where=mask, initial=-jnp.inf)
    shift = jnp.where(jnp.isfinite(largest), largest, 0)
    total = jnp.sum(jnp.where(mask, jnp.exp(jnp.where(mask, values - shift, 0)), 0), axis=1)
    empty = total == 0
    return jnp.where(empty, 0, jnp.log(jnp.where(empty, 1, total)) + shift[:, 0])


def log1p_sum_exp(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Return log(1 + sum exp) over the masked entries of each row."""
    return softplus_where(jnp.any(mask, axis=1), log_sum_exp(values, mask))


def softplus_where(mask: jax.Array, values: jax.Array) -> jax.Array:
    """Return log(1 + exp(.)) of the masked entries; 0 with gradient 0 elsewhere."""
    return jnp.where(mask, jax.nn.softplus(jnp.where(mask, values, 0)), 0)


def exp_weighted_mean(values: jax.Array, mask: jax.Array, sharpness: jax.Array | float) -> jax.Array:
    """Return the mean of the masked entries of each row, weighed by exp(sharpness * value); 0 for an empty row."""
    values = jnp.where(mask, values, 0)
    exponents = sharpness * values
    largest = jnp.max(jax.lax.stop_gradient(exponents), axis=1, keepdims=True, where=mask, initial=-jnp.inf)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, exponents - largest, 0)), 0)
    total = jnp.sum(weights, axis=1)
    return jnp.sum(weights * values, axis=1) / jnp.where(total > 0, total, 1)
