"""How often a mixture repeats each domain: blends from epochs, small copies of a long run, and what a schedule uses.

A domain of n tokens that has the proportion p of a run of T tokens is seen p T / n times. Few repetitions of good data
cost little, up to about four to eight; more teach less and less.

References:
  Feng et al., Maximize your data's potential: enhancing LLM accuracy with two-phase pretraining, 2024
    (arXiv 2412.15285).
  Saad-Falcon et al., Benchmarking and building long-context retrieval models with LoCo and M2-BERT, 2024
    (arXiv 2402.07440).

Method: blends by epochs, budgets, sequence lengths
Paper: 2412.15285, 2402.07440
Experiment: two_phase_mixture
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_count, check_number, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.mixing._mixtures import check_mixture
from minibatch_jax.schedules._steps import real


class Blend(NamedTuple):
    """A mixture and the length of the run that it is made for.

    Attributes:
      mixture: `[K]`, sum 1.
      tokens: `[]`, tokens of the run.
    """

    mixture: jax.Array
    tokens: jax.Array


def blend_from_epochs(sizes: jax.Array, epochs: jax.Array) -> Blend:
    """Return the mixture that passes over each domain so many times, and the tokens that this takes.

    Args:
      sizes: `[K]`, tokens of each domain, >= 0.
      epochs: `[K]`, passes over each, >= 0; below 1 for a part of a domain.

    Returns:
      `Blend(mixture, tokens)`.

    Raises:
      ValueError: if shapes differ or, of concrete arrays, a number is negative or all domains have nothing.

    References:
      Feng et al., 2024 (arXiv 2412.15285).

    Examples:
      >>> blend = blend_from_epochs(jnp.array([900.0, 100.0]), jnp.array([0.5, 4.0]))
      >>> blend.tokens.item(), [round(p, 4) for p in blend.mixture.tolist()]
      (850.0, [0.5294, 0.4706])
    """
    sizes, epochs = _amounts("sizes", sizes), _amounts("epochs", epochs, jnp.shape(sizes))
    seen = sizes * epochs
    total = jnp.sum(seen)
    if not isinstance(total, jax.core.Tracer) and total == 0:
        raise ValueError("sizes and epochs have the product 0 in every domain, wanted one that is above.")
    return Blend(seen / nonzero(total), total)


def epochs_of(mixture: jax.Array, sizes: jax.Array, tokens: float | jax.Array) -> jax.Array:
    """Return how many times a run passes over each domain, mixture x tokens / sizes.

    Args:
      mixture: `[K]`, floating point, proportions.
      sizes: `[K]`, tokens of each domain, >= 0.
      tokens: tokens of the run, >= 0, may be traced.

    Returns:
      `[K]`; infinite where an empty domain has a proportion, 0 where it has none.

    Raises:
      TypeError: if the mixture is not floating point.
      ValueError: if shapes differ, a concrete mixture does not sum to 1, or a concrete number is negative.

    Examples:
      >>> epochs_of(jnp.array([0.5, 0.5]), jnp.array([1000.0, 100.0]), 800).tolist()
      [0.4000000059604645, 4.0]
    """
    check_number("tokens", tokens, 0)
    check_mixture("mixture", mixture)
    mixture = real(mixture)
    return _passes(mixture * real(tokens), _amounts("sizes", sizes, mixture.shape))


def downsample_for_horizon(sizes: jax.Array, tokens: float | jax.Array, new_tokens: float | jax.Array) -> jax.Array:
    """Return how much of each domain to keep so that a shorter run passes over each as often as the long one.

    Args:
      sizes: `[K]`, tokens of each domain, >= 0.
      tokens: tokens of the long run, > 0, may be traced.
      new_tokens: tokens of the short run, in which mixtures are tried, >= 0, may be traced.

    Returns:
      `[K]`, sizes x new_tokens / tokens.

    Raises:
      ValueError: if a concrete number is negative, or the long run has no tokens.

    References:
      Feng et al., 2024 (arXiv 2412.15285).

    Examples:
      >>> downsample_for_horizon(jnp.array([3000.0, 60.0]), 15_000, 1000).tolist()
      [200.0, 4.0]
    """
    check_number("tokens", tokens, 0, open_low=True)
    check_number("new_tokens", new_tokens, 0)
    return _amounts("sizes", sizes) * real(new_tokens) / real(tokens)


class Budget(NamedTuple):
    """What a mixture schedule uses in a run.

    Attributes:
      tokens: `[K]`, tokens drawn of each domain.
      epochs: `[K]`, passes over each domain.
      exceeded: `[K]` bool, where the passes are more than allowed.
    """

    tokens: jax.Array
    epochs: jax.Array
    exceeded: jax.Array


def schedule_budget(
    mixture: Callable[[Any], jax.Array],
    sizes: jax.Array,
    num_steps: int,
    tokens_per_step: float | jax.Array,
    *,
    max_epochs: float | jax.Array = jnp.inf,
) -> Budget:
    """Return what a mixture schedule draws of each domain in a run, summed over every step, and where it is too much.

    Args:
      mixture: `fn(step) -> [K]`.
      sizes: `[K]`, tokens of each domain, >= 0.
      num_steps: steps of the run, static, >= 1; the schedule is held for all of them, `[num_steps, K]`.
      tokens_per_step: tokens of a batch, a number or one for each step, `[num_steps]`.
      max_epochs: most passes over a domain, a number or `[K]`.

    Returns:
      `Budget(tokens, epochs, exceeded)`; stop if `exceeded.any()`.

    Raises:
      TypeError: if `num_steps` is not a static int.
      ValueError: if a shape does not fit or a concrete number is negative.

    Examples:
      >>> from minibatch_jax.mixing import two_phase_mixture
      >>> mixture = two_phase_mixture(jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5]), switch=60)
      >>> budget = schedule_budget(mixture, jnp.array([9000.0, 500.0]), 100, tokens_per_step=100, max_epochs=3.0)
      >>> budget.tokens.tolist(), budget.exceeded.tolist()
      ([8000.0, 2000.0], [False, True])
    """
    check_count("num_steps", num_steps)
    sizes = _amounts("sizes", sizes)
    each = _amounts("tokens_per_step", jnp.broadcast_to(real(tokens_per_step), (num_steps,)))
    shares = jax.vmap(mixture)(jnp.arange(num_steps, dtype=jnp.int32))
    check_shape("the mixtures of all steps", shares, (num_steps, *sizes.shape))
    tokens = jnp.sum(each[:, None] * shares, axis=0)
    epochs = _passes(tokens, sizes)
    allowed = jnp.broadcast_to(real(max_epochs), epochs.shape)
    return Budget(tokens, epochs, epochs > allowed * (1 + 1e-5))


def length_mixture(mixture: jax.Array, long: float | jax.Array, lengths: tuple[float, float] = (1.0, 1.0)) -> jax.Array:
    """Return the proportions of short and of long sequences of each domain, such that a share of the tokens is long.

    A domain is there twice, cut into sequences as they come and packed to the longest length, so that an encoder learns
    both, queries and documents. A long row holds more tokens than a short one: shares of tokens are not shares of rows.

    Args:
      mixture: `[K]`, proportions of the domains in tokens.
      long: fraction in [0, 1] of each domain's tokens that is in long sequences, a number or `[K]`.
      lengths: mean tokens of a short and of a long row, > 0; equal ones give the shares of tokens.

    Returns:
      `[K, 2]` proportions of rows, with the short ones in column 0, sum 1; `reshape(-1)` gives 2 K domains.

    Raises:
      ValueError: if a concrete number is out of range, or no domain has a proportion.

    References:
      Saad-Falcon et al., 2024 (arXiv 2402.07440).

    Examples:
      >>> length_mixture(jnp.array([1.0]), 0.75, (100, 300)).tolist()
      [[0.5, 0.5]]
    """
    mixture = _amounts("mixture", mixture)
    for length in lengths:
        check_number("lengths", length, 0, open_low=True)
    long = jnp.broadcast_to(real(long), mixture.shape)
    if not isinstance(long, jax.core.Tracer) and not np.all((np.asarray(long) >= 0) & (np.asarray(long) <= 1)):
        raise ValueError(f"long is {np.asarray(long).tolist()}, wanted numbers in [0, 1].")
    rows = jnp.stack([mixture * (1 - long) / real(lengths[0]), mixture * long / real(lengths[1])], axis=1)
    if not isinstance(rows, jax.core.Tracer) and not bool(jnp.sum(rows) > 0):
        raise ValueError(f"mixture has {mixture.tolist()}, wanted a number above 0.")
    return rows / nonzero(jnp.sum(rows))


def _passes(tokens: jax.Array, sizes: jax.Array) -> jax.Array:
    return jnp.where(tokens > 0, tokens / sizes, 0)


def _amounts(name: str, values: Any, shape: tuple[int | None, ...] = (None,)) -> jax.Array:
    """Return a vector in float32 at least. Raise if it is concrete and a number is negative or NaN."""
    check_shape(name, values, shape)
    if not isinstance(values, jax.core.Tracer) and not np.all(np.asarray(values) >= 0):
        raise ValueError(f"{name} has {np.asarray(values).tolist()}, wanted numbers >= 0.")
    return real(values)
