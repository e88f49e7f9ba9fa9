"""What the online rules share: checks of a mixture, its living domains, and steps in the logarithm of the weights."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax._vector import nonzero

LARGEST_TILT = 1e4
"""Beyond it a weight is 0 or 1 in any dtype. XLA may round a product twice in two ways, and this bounds the error."""


def check_mixture(name: str, mixture: jax.Array, size: int | None = None) -> None:
    """Raise unless this is a floating-point vector that, where it is concrete, is non-negative and sums to 1."""
    check_shape(name, mixture, (size,))
    check_floating(name, mixture)
    if isinstance(mixture, jax.core.Tracer):
        return
    values = np.asarray(mixture, np.float64)
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError(f"{name} has a negative or non-finite entry, wanted finite numbers >= 0.")
    tolerance = 1e-2 if jnp.result_type(mixture).itemsize < 4 else 1e-3
    if abs(values.sum() - 1) > tolerance:
        raise ValueError(f"{name} has the sum {values.sum():.4g}, wanted 1.")


def check_domains(weights: jax.Array, **signals: Any) -> None:
    """Raise unless the weights and each of the signals are `[K]`."""
    check_shape("weights", weights, (None,))
    for name, signal in signals.items():
        check_shape(name, signal, weights.shape)


def observed(weights: jax.Array, values: jax.Array, counts: jax.Array) -> jax.Array:
    """Return which domains are in the mixture, were drawn and have a finite value."""
    return (weights > 0) & (counts > 0) & jnp.isfinite(values)


def shares(weights: jax.Array) -> jax.Array:
    """Return the weights divided by their sum, 0 where they are not positive."""
    weights = jnp.maximum(weights, 0)
    return weights / nonzero(jnp.sum(weights))


def softmax_over(alive: jax.Array, logits: jax.Array) -> jax.Array:
    """Return the softmax over the living domains, 0 elsewhere; logits are clipped, and NaN counts as 0."""
    logits = jnp.clip(jnp.where(jnp.isnan(logits), 0, logits), -LARGEST_TILT, LARGEST_TILT)
    powers = jnp.where(alive, jnp.exp(logits - jnp.max(jnp.where(alive, logits, -LARGEST_TILT))), 0)
    return powers / nonzero(jnp.sum(powers))


def log_of(alive: jax.Array, prior: jax.Array) -> jax.Array:
    """Return the logarithm of a mixture, 0 for domains that are not in it."""
    return jnp.log(jnp.where(alive, prior, 1))


def exponentiated_step(
    weights: jax.Array, tilt: jax.Array, scores: jax.Array, smoothing: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Take one step of exponentiated gradient, `p <- p exp(scores)`, and mix the result with the uniform mixture.

    Args:
      weights: `[K]`, the prior mixture; a domain of weight 0 takes no part.
      tilt: `[K]`, logarithm of the mixture so far over the prior.
      scores: `[K]`, finite.
      smoothing: share of the uniform mixture over the domains of the prior.

    Returns:
      The new mixture `[K]`, of sum 1, and its tilt `[K]`; domains that take no part keep theirs.
    """
    alive, prior = weights > 0, shares(weights)
    smoothing = jnp.asarray(smoothing, weights.dtype)
    moved = tilt + jnp.clip(scores, -LARGEST_TILT, LARGEST_TILT)
    logits = jnp.where(alive, log_of(alive, prior) + moved, -jnp.inf)
    logits = logits - jnp.where(jnp.any(alive), jax.nn.logsumexp(logits), 0)
    uniform = 1 / nonzero(jnp.sum(alive, dtype=weights.dtype))
    logits = jnp.logaddexp(logits + jnp.log1p(-smoothing), jnp.log(smoothing * uniform))
    new_tilt = jnp.clip(logits - log_of(alive, prior), -LARGEST_TILT, LARGEST_TILT)
    return jnp.where(alive, jnp.exp(logits), 0), jnp.where(alive, new_tilt, tilt)


def running_mean(mean: jax.Array, count: jax.Array, value: jax.Array) -> jax.Array:
    """Return the mean of `count` values after the last of them has come."""
    return mean + (value - mean) / count.astype(value.dtype)
