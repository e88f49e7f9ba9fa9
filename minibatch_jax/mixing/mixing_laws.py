"""The loss on a validation domain as a function of the training mixture, fitted to a few small runs.

The law is `L(r) = c + sum_d k_d exp(t_d . r)` with c, k > 0, convex in the mixture r. With one term it is the law of a
validation domain; with more, that of validation data whose domains are unknown (implicit domains, whose offsets and
shares fold into one c and the k_d). On the simplex `(k, t)` and `(k exp(-a), t + a)` are the same law: the fit returns
slopes whose mean is 0. Do not compare slopes with a reference that fixes them otherwise; compare predictions.

References:
  Ye et al., Data mixing laws: optimizing data mixtures by predicting language modeling performance, ICLR 2025
  (arXiv 2403.16952).

Method: data mixing laws
Paper: 2403.16952
Experiment: mixture_laws
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_number, check_shape
from minibatch_jax._vector import num_different
from minibatch_jax.geometry import product
from minibatch_jax.mixing._fits import check_runs, huber_fit, spread, usable_mixtures


class MixingLaw(NamedTuple):
    """Laws of V validation domains; without the axis V where the losses had none.

    Attributes:
      constant: `[V]`, c, the loss that no mixture removes.
      scales: `[V, D]`, k of each term.
      slopes: `[V, D, K]`, t of each term, with mean 0 over domains: negative for domains that lower the loss.
      loss: `[V]`, sum of Huber losses at the fit, with the ridge.
      converged: `[V]` bool, whether the fit is at a minimum and had runs of enough different mixtures.
      num_runs: `[V]` int32, runs that counted.
    """

    constant: jax.Array
    scales: jax.Array
    slopes: jax.Array
    loss: jax.Array
    converged: jax.Array
    num_runs: jax.Array


def fit_mixing_law(
    mixtures: jax.Array,
    losses: jax.Array,
    *,
    key: jax.Array | int,
    num_terms: int = 1,
    num_starts: int = 16,
    delta: float | jax.Array = 0.05,
    ridge: float | jax.Array = 0.0,
    max_iterations: int = 200,
) -> MixingLaw:
    """Fit the law of each validation domain to the losses of M runs.

    Each fit minimizes `sum huber(L(r) - loss) + ridge / 2 * sum (t - mean t)^2` from several starts and keeps the best.
    A start fixes c as a fraction of the least loss and regresses log(loss - c) on the mixture. The paper minimizes the
    same sum by L-BFGS from a grid of starts. Proportions are divided by their sum, as those of a table are rounded. A
    run has no weight if its mixture is not within 0.01 of sum 1, has a negative entry, or its loss is not finite.

    Args:
      mixtures: `[M, K]`, floating point, proportions of K > 1 domains in each run. Include some zeros, or predictions
        for mixtures without a domain are extrapolated.
      losses: `[M]` or `[M, V]`, floating point, positive, losses of V validation domains at the end of each run.
      key: typed PRNG key or int seed, of the starts.
      num_terms: D, static; more than 1 for validation data that is itself a mixture.
      num_starts: starts of each fit, static.
      delta: Huber's, in units of the loss, positive, may be traced; runs farther off than this count less.
      ridge: penalty of slopes, at least 0, may be traced. Without it each law needs at least `D * K + 1` runs, of
        as many different mixtures.
      max_iterations: of each start, static.

    Returns:
      The laws, float32 (float64 if the losses are).

    Raises:
      TypeError: if an input is not floating point or a count is not a static int.
      ValueError: if shapes do not match, K is 1, no mixture sums to 1, a number is out of range, or there are too few
        runs for a fit without ridge.

    References:
      Ye et al., ICLR 2025 (arXiv 2403.16952).

    Examples:
      >>> share = jnp.linspace(0.0, 1.0, 9)
      >>> mixtures = jnp.stack([share, 1 - share], axis=1)
      >>> law = fit_mixing_law(mixtures, 2 + jnp.exp(-3 * share), key=0, num_starts=4)
      >>> print(f"{law.constant:.3f}", predict_losses(law, jnp.array([0.5, 0.5])).round(3), law.converged)
      2.000 2.223 True
    """
    mixtures, losses = check_runs(mixtures, losses)
    check_count("num_terms", num_terms)
    check_count("num_starts", num_starts)
    check_count("max_iterations", max_iterations)
    check_number("delta", delta, 0, open_low=True)
    check_number("ridge", ridge, 0)
    (runs, domains), free = mixtures.shape, num_terms * mixtures.shape[1] + 1
    unpenalized = not isinstance(ridge, jax.Array) and ridge == 0
    if unpenalized and runs < free:
        raise ValueError(
            f"mixtures has {runs} runs, wanted at least {free} for a law of {domains} domains without ridge."
        )
    mixtures, usable = usable_mixtures(mixtures)
    delta, ridge = (jnp.asarray(x, losses.dtype) for x in (delta, ridge))
    table = losses.reshape(runs, -1)
    keys = jax.random.split(as_key(key), table.shape[1])

    def fit(values, key):
        counts = usable & jnp.isfinite(values)
        law = _fit_one(mixtures, values, counts, key, delta, ridge, num_terms, num_starts, max_iterations)
        enough = num_different(mixtures, counts) >= jnp.where(ridge > 0, 2, free)
        return law._replace(converged=law.converged & enough)

    law = jax.vmap(fit, in_axes=(1, 0))(table, keys)
    return law if losses.ndim == 2 else jax.tree.map(lambda x: x[0], law)


def predict_losses(law: MixingLaw, mixtures: jax.Array) -> jax.Array:
    """Return the losses that the laws predict for mixtures.

    Args:
      law: of V validation domains over K training domains.
      mixtures: `[..., K]`, floating point, each summing to 1.

    Returns:
      `[..., V]`, or `[...]` if the law has no axis V; differentiable, and convex in the mixture.

    Raises:
      ValueError: if the number of domains does not fit.

    Examples:
      >>> law = MixingLaw(jnp.ones(()), jnp.ones(1), jnp.zeros((1, 2)), jnp.zeros(()), True, 9)
      >>> predict_losses(law, jnp.array([0.3, 0.7])).item()
      2.0
    """
    check_shape("mixtures", mixtures, (*mixtures.shape[:-1], law.slopes.shape[-1]))
    slopes = law.slopes.reshape(-1, *law.slopes.shape[-2:])
    powers = jnp.einsum("...k,vdk->...vd", mixtures.astype(slopes.dtype), slopes, precision="highest")
    scales = law.scales.reshape(-1, law.scales.shape[-1])
    terms = jnp.einsum("...vd,vd->...v", jnp.exp(powers), scales, precision="highest")
    found = terms + jnp.broadcast_to(law.constant.reshape(-1), terms.shape)
    return found if law.constant.ndim else found[..., 0]


def _fit_one(mixtures, values, counts, key, delta, ridge, num_terms, num_starts, max_iterations):
    """Fit in units of the spread of the losses, in which float32 suffices."""
    weights = counts.astype(values.dtype)
    values = jnp.where(counts, values, 1)
    unit = spread(values, weights)
    targets = values / unit
    starts = _starts(mixtures, targets, weights, key, num_terms, num_starts)
    domains = mixtures.shape[1]
    center = jnp.eye(domains, dtype=values.dtype) - 1 / domains
    penalty = jnp.kron(jnp.eye(num_terms, dtype=values.dtype), center) * (ridge / unit**2)
    penalty = jnp.pad(penalty, ((1, 0), (1, 0)))
    found = huber_fit(_law, starts, (mixtures,), targets, weights, delta / unit, penalty, max_iterations)
    slopes = found.params[1:].reshape(num_terms, domains)
    means = jnp.mean(slopes, axis=1)
    return MixingLaw(
        jnp.exp(found.params[0]) * unit,
        jnp.exp(means) * unit,
        slopes - means[:, None],
        found.loss * unit**2,
        found.converged,
        jnp.sum(counts, dtype=jnp.int32),
    )


def _law(params, mixtures):
    slopes = params[1:].reshape(-1, mixtures.shape[1])
    return jnp.exp(params[0]) + jnp.sum(jnp.exp(product(mixtures, slopes.T)), axis=1)


def _starts(mixtures, targets, weights, key, num_terms, num_starts):
    """`[S, 1 + D K]`: c at fractions of the least loss, slopes by regression of log(loss - c), half of them moved."""
    dtype, domains = targets.dtype, mixtures.shape[1]
    least = jnp.min(jnp.where(weights > 0, targets, jnp.inf))
    least = jnp.where(jnp.isfinite(least) & (least > 0), least, 1)
    fractions = (jnp.arange(num_starts, dtype=dtype) + 0.5) / num_starts

    def regress(fraction):
        above = jnp.maximum(targets - fraction * least, 1e-3)
        trust = weights * above**2 / jnp.max(weights * above**2 + 1e-30)
        weighted = mixtures * trust[:, None]
        gram = product(weighted.T, mixtures) + 1e-3 * jnp.eye(domains, dtype=dtype)
        level = jnp.sum(trust * jnp.log(above)) / jnp.maximum(jnp.sum(trust), 1e-30)
        return level + jnp.linalg.solve(gram, product(weighted.T, jnp.log(above) - level))

    slopes = jnp.repeat(jax.vmap(regress)(fractions)[:, None], num_terms, axis=1) - jnp.log(
        jnp.asarray(num_terms, dtype)
    )
    noise = jax.random.normal(key, slopes.shape, dtype)
    moved = 0.3 * (jnp.arange(num_starts) % 2).astype(dtype) + float(num_terms > 1)
    slopes += moved[:, None, None] * noise
    constants = jnp.log(fractions * least)
    return jnp.concatenate([constants[:, None], slopes.reshape(num_starts, -1)], axis=1)
