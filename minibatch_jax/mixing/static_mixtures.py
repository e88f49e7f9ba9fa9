"""Mixtures that follow from the sizes of the domains alone: temperature sampling and UniMax.

References:
  Raffel et al., Exploring the limits of transfer learning with a unified text-to-text transformer, JMLR 2020
  (arXiv 1910.10683).
  Chung et al., UniMax: fairer and more effective language sampling for large-scale multilingual pretraining, ICLR 2023
  (arXiv 2304.09151).

Method: temperature sampling, UniMax
Paper: 1910.10683, 2304.09151
Experiment: online_mixing
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax._checks import check_number, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.mixing._mixtures import log_of, shares, softmax_over
from minibatch_jax.weights import weight_dtype, weight_transformation

Sizes = jax.Array | np.ndarray | Sequence[float]


def temperature_mixture(
    sizes: Sizes, temperature: float | jax.Array, *, scale: float | jax.Array = 1.0, cap: float | jax.Array = np.inf
) -> jax.Array:
    """Return the mixture in proportion to `min(scale x size, cap) ** (1 / temperature)`.

    Temperature 1 gives the natural proportions and infinity equal ones; multilingual models use 1.4 to 3.3. A domain of
    size 0 gets weight 0, and so does, in `jit`, one of negative or non-finite size. A traced temperature that is not
    positive gives 0 everywhere.

    Args:
      sizes: `[K]`, examples or tokens of each domain, at least 0; an array or numbers, also beyond the range of int32.
      temperature: positive, may be traced or infinite.
      scale: factor of the sizes before the cap, positive, may be traced.
      cap: largest size after the scale, positive, in the unit of the sizes, may be traced.

    Returns:
      `[K]`, float32 (float64 for JAX arrays of that dtype), of sum 1.

    Raises:
      TypeError: if temperature, scale or cap is not a number.
      ValueError: if one of these is out of range, the sizes are not `[K]`, or concrete ones are negative, not finite or
        all 0.

    References:
      Raffel et al., 2020 (arXiv 1910.10683).

    Examples:
      >>> [round(p, 4) for p in temperature_mixture([100, 400], 2.0).tolist()]
      [0.3333, 0.6667]
      >>> temperature_mixture([100, 400], 1.0, cap=100).tolist()
      [0.5, 0.5]
    """
    check_number("temperature", temperature, 0, open_low=True)
    check_number("scale", scale, 0, open_low=True)
    check_number("cap", cap, 0, open_low=True)
    sizes = _checked_sizes(sizes)
    dtype = sizes.dtype
    rates = jnp.minimum(jnp.asarray(scale, dtype) * sizes, jnp.asarray(cap, dtype))
    return _tempered(jnp.where(jnp.isfinite(sizes), rates, 0), temperature)


class UnimaxMixture(NamedTuple):
    """Result of `unimax_mixture`.

    Attributes:
      mixture: `[K]`, proportions of the domains, of sum 1.
      epochs: `[K]`, how often each domain is seen, at most `max_epochs`; 0 for a domain of size 0.
      unspent: `[]`, the part of the budget that no domain may take; the mixture is that of the rest.
    """

    mixture: jax.Array
    epochs: jax.Array
    unspent: jax.Array


def unimax_mixture(sizes: Sizes, budget: float | jax.Array, max_epochs: float | jax.Array) -> UnimaxMixture:
    """Return the most uniform mixture in which no domain is seen more than `max_epochs` times (UniMax).

    Each domain takes `min(level, max_epochs x size)`, with the level at which they take the whole budget. If they
    cannot, because `max_epochs x sum(sizes)` is smaller, every domain is seen `max_epochs` times and the rest of the
    budget is `unspent`. In `jit` a domain of negative or non-finite size gets weight 0.

    Args:
      sizes: `[K]`, tokens (or characters, or examples) of each domain, at least 0; an array or numbers.
      budget: how much is trained on, in the unit of the sizes, positive, may be traced.
      max_epochs: how often a domain may be seen, positive, may be traced.

    Returns:
      Mixture, epochs and what is left of the budget, float32 (float64 for JAX arrays of that dtype).

    Raises:
      TypeError: if budget or `max_epochs` is not a number.
      ValueError: if one of these is not positive, the sizes are not `[K]`, or concrete ones are negative, not finite or
        all 0.

    References:
      Chung et al., 2023 (arXiv 2304.09151).

    Examples:
      >>> found = unimax_mixture([10, 100, 1000], budget=100, max_epochs=2)
      >>> [round(p, 4) for p in found.mixture.tolist()], [round(e, 4) for e in found.epochs.tolist()]
      ([0.2, 0.4, 0.4], [2.0, 0.4, 0.04])
    """
    check_number("budget", budget, 0, open_low=True)
    check_number("max_epochs", max_epochs, 0, open_low=True)
    sizes = _checked_sizes(sizes)
    dtype, number = sizes.dtype, sizes.shape[0]
    budget, max_epochs = jnp.asarray(budget, dtype), jnp.asarray(max_epochs, dtype)
    known = (sizes > 0) & (budget > 0) & jnp.isfinite(budget) & (max_epochs > 0)
    limits = jnp.where(known, jnp.minimum(max_epochs * (sizes / budget), 1), 0)  # as shares of the budget
    ascending = jnp.sort(limits)
    before = jnp.cumsum(ascending) - ascending
    # What is left for each, if the smaller domains are exhausted, rises until a domain has more than that, then falls.
    level = jnp.max((1 - before) / jnp.arange(number, 0, -1).astype(dtype))
    takes = jnp.minimum(limits, level)
    spent, possible = jnp.sum(takes), jnp.sum(limits)
    unspent = jnp.where(possible < 1, 1 - possible, 0)
    epochs = jnp.where(takes > 0, takes * budget / nonzero(sizes), 0)
    return UnimaxMixture(takes / nonzero(spent), epochs, unspent * budget)


def mix_by_temperature(temperature: float | jax.Array) -> optax.GradientTransformationExtraArgs:
    """Raise the mixture to the power `1 / temperature` and rescale it to the sum that it had; no signal, no state.

    With natural proportions coming in, this is temperature sampling, here also with a temperature that changes while
    training, by `optax.inject_hyperparams`. Weights of 0 stay 0, and with one domain nothing changes.

    Args:
      temperature: positive, may be traced or infinite: 1 changes nothing, infinity makes the weights equal.

    Returns:
      A transformation over `[K]` weights.

    Raises:
      TypeError: if the temperature is not a number.
      ValueError: if it is not positive.

    Examples:
      >>> tx = mix_by_temperature(2.0)
      >>> [round(p, 4) for p in tx.update(jnp.array([0.2, 0.8]), tx.init(jnp.ones(2)))[0].tolist()]
      [0.3333, 0.6667]
    """
    check_number("temperature", temperature, 0, open_low=True)

    def update(weights, state, params=None, **extra_args):
        check_shape("weights", weights, (None,))
        return _tempered(shares(weights), temperature) * jnp.sum(jnp.maximum(weights, 0)), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def _tempered(rates: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """Return the mixture of rates to the power 1 / temperature; 0 everywhere for a traced temperature that is none."""
    alive, temperature = rates > 0, jnp.asarray(temperature, rates.dtype)
    logits = log_of(alive, rates / nonzero(jnp.max(rates))) / temperature  # at most 0: the softmax clips
    return jnp.where(temperature > 0, softmax_over(alive, logits), 0)


def _checked_sizes(sizes: Sizes) -> jax.Array:
    """Return sizes as floats, 0 where a traced one is negative or not finite."""
    given = sizes if isinstance(sizes, jax.Array) else jnp.asarray(np.asarray(sizes, np.float32))
    check_shape("sizes", given, (None,))
    if not isinstance(sizes, jax.core.Tracer):
        values = np.asarray(sizes, np.float64)
        if not np.all(np.isfinite(values) & (values >= 0)):
            raise ValueError("sizes has a negative or non-finite entry, wanted finite numbers >= 0.")
        if not np.any(values > 0):
            raise ValueError("sizes is 0 everywhere, wanted a domain with at least one example.")
    given = given.astype(weight_dtype(given.dtype))
    return jnp.where(jnp.isfinite(given) & (given > 0), given, 0)
