"""The loss on a domain as a function of its own proportion and of the steps trained, and the best mixture of such laws.

The law is `L_i(r_i, s) = (B_i / s^beta_i + C_i) / r_i^alpha_i`: what a domain learns from the others is not in it. The
paper has a factor A_i besides, which B_i and C_i hold here.

References:
  Ge et al., BiMix: a bivariate data mixing law for language model pretraining, 2024 (arXiv 2405.14908).

Method: BiMix
Paper: 2405.14908
Experiment: mixture_laws
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import nonzero, num_different
from minibatch_jax.mixing._fits import huber_fit, spread
from minibatch_jax.weights import weight_dtype

BISECTIONS = 60


class BiMixLaw(NamedTuple):
    """Laws of K domains.

    Attributes:
      proportion_exponents: `[K]`, alpha.
      log_step_scales: `[K]`, logarithm of B, which may be beyond float32; -inf where the law knows no steps.
      step_exponents: `[K]`, beta.
      constants: `[K]`, C.
      floor: `[]`, proportions below it count as it.
      loss: `[K]`, sum of Huber losses of log L at the fit.
      converged: `[K]` bool, whether the fit is at a minimum and had enough runs that differ in proportion or steps.
      num_runs: `[K]` int32, runs that counted.
    """

    proportion_exponents: jax.Array
    log_step_scales: jax.Array
    step_exponents: jax.Array
    constants: jax.Array
    floor: jax.Array
    loss: jax.Array
    converged: jax.Array
    num_runs: jax.Array


def fit_bimix(
    proportions: jax.Array,
    losses: jax.Array,
    steps: jax.Array | None = None,
    *,
    key: jax.Array | int,
    floor: float | jax.Array = 1e-3,
    num_starts: int = 16,
    delta: float | jax.Array = 0.01,
    max_iterations: int = 200,
) -> BiMixLaw:
    """Fit the law of each domain to M losses, by the least sum of Huber losses of log L.

    A row counts for a domain if its loss there is positive and finite, its proportion in [0, 1] and its steps positive.

    Args:
      proportions: `[M, K]`, floating point, of the validated domains in the training data; rows need not sum to 1, as
        some training domains may have no validation loss.
      losses: `[M, K]`, floating point, on the validation data of each domain.
      steps: `[M]`, floating point, steps or tokens after which the losses were measured; None if all are the same: the
        law is then `C / r^alpha`.
      key: typed PRNG key or int seed, of the starts.
      floor: smaller proportions count as this, because the law is infinite at 0; positive, may be traced.
      num_starts: starts of each fit, static.
      delta: Huber's, in units of log L, positive, may be traced.
      max_iterations: of each start, static.

    Returns:
      The laws, float32 (float64 if the losses are).

    Raises:
      TypeError: if an input is not floating point or a count is not a static int.
      ValueError: if shapes do not match, a number is out of range, or there are fewer runs than parameters.

    References:
      Ge et al., 2024 (arXiv 2405.14908).

    Examples:
      >>> share = jnp.linspace(0.1, 0.9, 5)[:, None]
      >>> law = fit_bimix(share, 3 * share**-0.2, key=0, num_starts=4)
      >>> print(f"{law.proportion_exponents[0]:.3f} {law.constants[0]:.3f}")
      0.200 3.000
    """
    check_shape("proportions", proportions, (None, None))
    check_floating("proportions", proportions)
    check_shape("losses", losses, proportions.shape)
    check_floating("losses", losses)
    check_count("num_starts", num_starts)
    check_count("max_iterations", max_iterations)
    check_number("floor", floor, 0, 1, open_low=True)
    check_number("delta", delta, 0, open_low=True)
    if steps is not None:
        check_shape("steps", steps, losses.shape[:1])
        check_floating("steps", steps)
    free = 2 if steps is None else 4
    if losses.shape[0] < free:
        raise ValueError(f"losses has {losses.shape[0]} runs, wanted at least {free}, the parameters of a law.")
    dtype = weight_dtype(jnp.result_type(losses))
    proportions, losses = proportions.astype(dtype), losses.astype(dtype)
    delta, floor = (jnp.asarray(x, dtype) for x in (delta, floor))
    usable = (losses > 0) & jnp.isfinite(losses) & (proportions >= 0) & (proportions <= 1)
    logs = None
    if steps is not None:
        known = (steps > 0) & jnp.isfinite(steps)
        usable &= known[:, None]
        logs = jnp.log(jnp.where(known, steps.astype(dtype), 1))
    keys = jax.random.split(as_key(key), losses.shape[1])

    def fit(shares, values, counts, key):
        return _fit_one(shares, values, counts, logs, key, floor, delta, num_starts, max_iterations)

    law = jax.vmap(fit, in_axes=(1, 1, 1, 0))(proportions, losses, usable, keys)
    return law._replace(floor=floor)


def predict_bimix(law: BiMixLaw, proportions: jax.Array, steps: jax.Array | float = 1.0) -> jax.Array:
    """Return the losses that the laws predict.

    Args:
      law: of K domains.
      proportions: `[..., K]`, floating point.
      steps: steps trained, `[]` or `[..., 1]`; of no effect on a law without steps.

    Returns:
      `[..., K]`.

    Raises:
      ValueError: if the number of domains does not fit.

    Examples:
      >>> one, unknown = jnp.ones(1), jnp.zeros(1)
      >>> law = BiMixLaw(one / 2, jnp.log(unknown), unknown, one, jnp.asarray(0.001), unknown, unknown, unknown)
      >>> predict_bimix(law, jnp.array([0.0625])).tolist()
      [4.0]
    """
    check_shape("proportions", proportions, (*proportions.shape[:-1], law.constants.shape[0]))
    dtype = law.constants.dtype
    shares = jnp.maximum(proportions.astype(dtype), law.floor)
    at_steps = _at_steps(law, jnp.asarray(steps, dtype))
    powers = jnp.log(shares) * jnp.broadcast_to(law.proportion_exponents, shares.shape)
    return jnp.exp(-powers) * jnp.broadcast_to(at_steps, shares.shape)


def bimix_mixture(law: BiMixLaw, targets: jax.Array, steps: jax.Array | float = 1.0) -> jax.Array:
    """Return the mixture with the least sum of predicted losses, each weighted by its target.

    The optimum is `r_i = (alpha_i w_i K_i / lambda)^(1 / (1 + alpha_i))`, with K_i the law at the steps and r_i = 1;
    bisection finds the lambda whose proportions sum to 1. For caps on proportions use `best_mixture`.

    Args:
      law: of K domains. Its floor is ignored.
      targets: `[K]`, floating point, weight of the loss of each domain; a weight not above 0 gives proportion 0.
      steps: `[]`, steps trained; of no effect on a law without steps.

    Returns:
      `[K]`, sums to 1; uniform if no weight is above 0.

    Raises:
      TypeError: if the targets are not floating point.
      ValueError: if their shape does not fit.

    References:
      Ge et al., 2024 (arXiv 2405.14908).

    Examples:
      >>> two, unknown = jnp.ones(2), jnp.zeros(2)
      >>> constants = jnp.array([1.0, 8.0])
      >>> law = BiMixLaw(two / 2, jnp.log(unknown), unknown, constants, jnp.asarray(0.001), unknown, unknown, unknown)
      >>> print(*(f"{share:.3f}" for share in bimix_mixture(law, jnp.ones(2)).tolist()))
      0.200 0.800
    """
    check_shape("targets", targets, law.constants.shape)
    check_floating("targets", targets)
    dtype, count = law.constants.dtype, law.constants.shape[0]
    wanted = (targets > 0) & jnp.isfinite(targets)
    products = law.proportion_exponents * targets.astype(dtype) * _at_steps(law, jnp.asarray(steps, dtype))
    tops = jnp.where(wanted, jnp.log(jnp.where(wanted, products, 1)), -jnp.inf)
    powers = 1 / (1 + law.proportion_exponents)
    low = jnp.max(tops)
    low = jnp.where(jnp.isfinite(low), low, 0)
    high = low + jnp.log(jnp.asarray(count, dtype)) / jnp.min(powers)
    low, high = fori_loop(0, BISECTIONS, bind(_bisect, tops, powers), (low, high))
    found = jnp.exp(powers * (tops - high))
    total = jnp.sum(found)
    return jnp.where(total > 0, found / nonzero(total), 1 / count)


def _bisect(tops, powers, _, bounds):
    low, high = bounds
    middle = (low + high) / 2
    above = jnp.sum(jnp.exp(powers * (tops - middle))) > 1
    return jnp.where(above, middle, low), jnp.where(above, high, middle)


def _at_steps(law: BiMixLaw, steps: jax.Array) -> jax.Array:
    """Return `B / s^beta + C`, `[..., K]`."""
    logs = jnp.log(steps) if steps.ndim else jnp.log(steps)[None]
    exponents = jnp.broadcast_to(law.step_exponents, (*logs.shape[:-1], law.step_exponents.shape[0]))
    scales = jnp.broadcast_to(law.log_step_scales, exponents.shape)
    return jnp.exp(scales - exponents * logs) + jnp.broadcast_to(law.constants, exponents.shape)


def _fit_one(shares, values, counts, steps, key, floor, delta, num_starts, max_iterations):
    dtype = values.dtype
    weights = counts.astype(dtype)
    shares = jnp.log(jnp.maximum(jnp.where(counts, shares, 1), floor))
    targets = jnp.log(jnp.where(counts, values, 1))
    unit = spread(targets, weights)
    total = jnp.maximum(jnp.sum(weights), 1)
    level = jnp.sum(weights * targets) / total
    low, high = jnp.log(jnp.asarray((0.01, 2.0), dtype))
    draws = jax.random.uniform(key, (3, num_starts), dtype)
    exponents = low + (high - low) * draws[0]
    bases = level + jnp.exp(exponents) * jnp.sum(weights * shares) / total
    if steps is None:
        starts, inputs, middle = [exponents, bases], (shares, unit), jnp.zeros((), dtype)
    else:
        middle = jnp.sum(weights * steps) / total
        fractions = 0.05 + 0.9 * draws[2]
        starts = [exponents, bases + jnp.log(1 - fractions), bases + jnp.log(fractions), low + (high - low) * draws[1]]
        inputs = shares, unit, steps - middle
    starts = jnp.stack(starts, axis=1)
    penalty = jnp.zeros((starts.shape[1], starts.shape[1]), dtype)
    found = huber_fit(_law, starts, inputs, targets / unit, weights, delta / unit, penalty, max_iterations)
    exponent, constant, *of_steps = found.params
    scale, rate = of_steps if of_steps else (jnp.full((), -jnp.inf, dtype), jnp.zeros((), dtype))
    rate = jnp.exp(rate)
    loss, number = found.loss * unit**2, jnp.sum(counts, dtype=jnp.int32)
    known = shares[:, None] if steps is None else jnp.stack([shares, steps], axis=1)
    converged = found.converged & (num_different(known, counts) >= starts.shape[1])
    scale += rate * middle
    return BiMixLaw(jnp.exp(exponent), scale, rate, jnp.exp(constant), floor, loss, converged, number)


def _law(params, shares, unit, steps=None):
    """log L in units of its spread; parameters are the logarithms of alpha, C, B and beta."""
    level = params[1]
    if steps is not None:
        level = jnp.logaddexp(level, params[2] - jnp.exp(params[3]) * steps)
    return (level - jnp.exp(params[0]) * shares) / unit
