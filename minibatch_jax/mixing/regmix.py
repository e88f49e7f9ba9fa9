"""Mixtures to train small models on, a regression of their losses, and the mixture that it predicts to be best.

RegMix trains many small models on random mixtures, fits a regression of a loss on the proportions, predicts the losses
of many more mixtures, and averages those with the lowest. The paper's regression is LightGBM; here are a linear and a
quadratic one. `average_of_top` takes the predictions of any.

References:
  Liu et al., RegMix: data mixture as regression for language model pre-training, ICLR 2025 (arXiv 2407.01492).

Method: RegMix
Paper: 2407.01492
Experiment: mixture_laws
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_number, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import product
from minibatch_jax.mixing._fits import check_runs, usable_mixtures
from minibatch_jax.mixing._mixtures import shares
from minibatch_jax.weights import weight_dtype

STRENGTHS = 15


class Mixtures(NamedTuple):
    """Mixtures drawn by `sample_mixtures`.

    Attributes:
      mixtures: `[n, K]`, proportions; 0 in rows that are not valid.
      valid: `[n]` bool: false for the last rows where fewer than n draws were within the bounds.
    """

    mixtures: jax.Array
    valid: jax.Array


class Regression(NamedTuple):
    """A linear or quadratic function of the mixture for V losses; without the axis V where the losses had none.

    Attributes:
      intercept: `[V]`.
      coefficients: `[P, V]`, of proportions and, if quadratic, of products of two proportions.
      num_runs: `[V]` int32, runs that counted.
    """

    intercept: jax.Array
    coefficients: jax.Array
    num_runs: jax.Array


def sample_mixtures(
    key: jax.Array | int,
    prior: jax.Array,
    n: int,
    *,
    flattening: float = 0.5,
    strengths: tuple[float, float] = (0.1, 5.0),
    max_ratio: float = 15.0,
    smallest: float = 2e-4,
    oversampling: int = 16,
) -> Mixtures:
    """Draw mixtures around a prior, some nearly uniform over it and some with one domain alone.

    Each draw is from Dirichlet(strength * flattened prior), with a strength drawn from 15 values in geometric
    progression. As in the published code, the Dirichlet has the prior to the power of `flattening`, and the bound
    `max_ratio` x prior is on the prior itself. Proportions below `smallest` become 0, and the others are multiples of
    it, divided by their sum. A draw that equals an earlier one is dropped.

    Args:
      key: typed PRNG key or int seed.
      prior: `[K]`, floating point, proportions of the domains in the data; negative or not finite ones count as 0.
      n: number of mixtures, static.
      flattening: power of the prior.
      strengths: least and largest strength.
      max_ratio: a draw with a proportion above this many times its prior is dropped; at most this many times as many
        epochs of a domain.
      smallest: proportions are multiples of this, positive.
      oversampling: draws for each mixture, static; too few leave rows that are not valid.

    Returns:
      The mixtures, the valid ones first.

    Raises:
      TypeError: if the prior is not floating point or a count is not a static int.
      ValueError: if the shape is not `[K]`, a number is out of range, or no domain of a concrete prior is above 0.

    References:
      Liu et al., ICLR 2025 (arXiv 2407.01492).

    Examples:
      >>> drawn = sample_mixtures(0, jnp.array([0.6, 0.3, 0.1]), 4, max_ratio=2.0)
      >>> drawn.valid.tolist(), bool(jnp.all(drawn.mixtures <= jnp.array([[1.0, 0.6, 0.2]]) + 2e-4))
      ([True, True, True, True], True)
    """
    prior = _prior(prior)
    check_count("n", n)
    check_count("oversampling", oversampling)
    check_number("flattening", flattening, 0)
    check_number("max_ratio", max_ratio, 1)
    check_number("smallest", smallest, 0, 1, open_low=True)
    for strength in strengths:
        check_number("strengths", strength, 0, open_low=True)
    dtype = prior.dtype
    flat = jnp.where(prior > 0, prior**flattening, 0)
    strength_key, draw_key = jax.random.split(as_key(key))
    low, high = (jnp.log(jnp.asarray(strength, dtype)) for strength in strengths)
    places = jax.random.randint(strength_key, (n * oversampling,), 0, STRENGTHS).astype(dtype) / (STRENGTHS - 1)
    drawn = jnp.exp(low + (high - low) * places)
    mixtures = _dirichlet(draw_key, drawn[:, None] * (flat / nonzero(jnp.sum(flat)))[None])
    within = jnp.all(mixtures <= jnp.minimum(max_ratio * prior, 1)[None] * (1 + 1e-6), axis=1)
    mixtures = jnp.where(mixtures < smallest, 0, mixtures)
    mixtures = jnp.round(mixtures / nonzero(jnp.sum(mixtures, axis=1))[:, None] / smallest)
    within &= jnp.sum(mixtures, axis=1) > 0
    same = jnp.lexsort(mixtures.T)  # equal draws become neighbors
    repeats = jnp.all(mixtures[same][1:] == mixtures[same][:-1], axis=1)
    is_new = jnp.ones(len(same), bool).at[same[1:]].set(~repeats)
    chosen = jnp.argsort(~(within & is_new), stable=True)[:n]
    valid = (within & is_new)[chosen]
    mixtures = mixtures[chosen] / nonzero(jnp.sum(mixtures[chosen], axis=1))[:, None]
    return Mixtures(jnp.where(valid[:, None], mixtures, 0), valid)


def average_of_top(
    predict: Callable[[jax.Array], jax.Array],
    key: jax.Array | int,
    prior: jax.Array,
    *,
    num_draws: int = 100_000,
    num_averaged: int = 128,
) -> jax.Array:
    """Return the mean of the mixtures with the lowest predicted loss among draws from Dirichlet(prior).

    Args:
      predict: `predict(mixtures [N, K])` gives losses `[N]`; draws whose prediction is not finite do not count.
      key: typed PRNG key or int seed.
      prior: `[K]`, floating point, proportions of the domains in the data; those not above 0 are never drawn.
      num_draws: N, static.
      num_averaged: how many are averaged, static.

    Returns:
      `[K]`, sums to 1; all 0 if no prediction is finite or, in `jit`, no domain has a prior above 0.

    Raises:
      TypeError: if the prior is not floating point or a count is not a static int.
      ValueError: if a shape does not match, a count is out of range, or no domain of a concrete prior is above 0.

    References:
      Liu et al., ICLR 2025 (arXiv 2407.01492).

    Examples:
      >>> def predict(mixtures):
      ...     return jnp.abs(mixtures[:, 0] - 0.25)
      >>> average_of_top(predict, 0, jnp.array([0.5, 0.5]), num_draws=4096, num_averaged=16).round(2).tolist()
      [0.25, 0.75]
    """
    prior = _prior(prior)
    check_count("num_draws", num_draws)
    check_count("num_averaged", num_averaged, num_draws, "the number of draws")
    mixtures = _dirichlet(as_key(key), jnp.broadcast_to(prior, (num_draws, prior.shape[0])))
    losses = jnp.asarray(predict(mixtures))
    check_shape("predict(mixtures)", losses, (num_draws,))
    known = jnp.isfinite(losses) & jnp.any(prior > 0)
    best = jax.lax.top_k(-jnp.where(known, losses, jnp.inf), num_averaged)[1]
    counted = known[best]
    total = jnp.sum(jnp.where(counted[:, None], mixtures[best], 0), axis=0)
    return total / jnp.maximum(jnp.sum(counted, dtype=jnp.int32), 1).astype(total.dtype)


def fit_regression(
    mixtures: jax.Array, losses: jax.Array, *, features: str = "linear", ridge: float | jax.Array = 1e-3
) -> Regression:
    """Fit each loss by ridge regression on proportions, the intercept without penalty.

    Args:
      mixtures: `[M, K]`, floating point; a row that does not sum to 1 within 0.01 has no weight.
      losses: `[M]` or `[M, V]`, floating point; a loss that is not finite has no weight.
      features: "linear", or "quadratic" for all products of two proportions besides; static.
      ridge: penalty, at least 0, may be traced: `sum (prediction - loss)^2 + ridge * sum coefficient^2`. With 0 the
        proportions, which sum to 1, leave the coefficients open, and the fit is the one of least norm.

    Returns:
      The regression, float32 (float64 if the losses are).

    Raises:
      TypeError: if an input is not floating point.
      ValueError: if shapes do not match, K is 1, no mixture sums to 1, or an option is out of range.

    Examples:
      >>> mixtures = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
      >>> fitted = fit_regression(mixtures, jnp.array([1.0, 2.0, 3.0]), ridge=1e-6)
      >>> predict_regression(fitted, jnp.array([[0.25, 0.75]])).round(3).tolist()
      [2.5]
    """
    mixtures, losses = check_runs(mixtures, losses)
    check_choice("features", features, ("linear", "quadratic"))
    check_number("ridge", ridge, 0)
    mixtures, usable = usable_mixtures(mixtures)
    inputs = _features(mixtures, features == "quadratic")
    ridge = jnp.asarray(ridge, losses.dtype)

    def fit(values):
        counts = usable & jnp.isfinite(values)
        weights = counts.astype(values.dtype)
        values, total = jnp.where(counts, values, 0), jnp.maximum(jnp.sum(weights), 1)
        center, mean = product(weights, inputs) / total, product(weights, values) / total
        centered = jnp.where(counts[:, None], inputs - center[None], 0)
        # by the singular values, which float32 resolves where the normal equations square the condition
        left, singular, right = jnp.linalg.svd(centered, full_matrices=False)
        smallest = jnp.max(singular) * max(centered.shape) * jnp.finfo(values.dtype).eps
        inverse = jnp.where(singular > smallest, singular / nonzero(singular**2 + ridge), 0)
        coefficients = product(inverse * product(weights * (values - mean), left), right)
        return Regression(mean - product(center, coefficients), coefficients, jnp.sum(counts, dtype=jnp.int32))

    if losses.ndim == 1:
        return fit(losses)
    return jax.vmap(fit, in_axes=1, out_axes=Regression(0, 1, 0))(losses)  # pyright: ignore[reportArgumentType]


def predict_regression(regression: Regression, mixtures: jax.Array) -> jax.Array:
    """Return the losses that a regression predicts for mixtures.

    Args:
      regression: of V losses over K domains.
      mixtures: `[..., K]`, floating point.

    Returns:
      `[..., V]`, or `[...]` if the regression has no axis V.

    Raises:
      ValueError: if the number of domains does not fit.

    Examples:
      >>> fitted = Regression(jnp.ones(()), jnp.array([1.0, 2.0]), jnp.int32(3))
      >>> predict_regression(fitted, jnp.array([0.5, 0.5])).item()
      2.5
    """
    domains, count = mixtures.shape[-1], regression.coefficients.shape[0]
    if count not in (domains, domains + domains * (domains + 1) // 2):
        raise ValueError(
            f"mixtures has {domains} domains, wanted those of the regression, which has {count} coefficients."
        )
    inputs = _features(mixtures.astype(regression.coefficients.dtype), count > domains)
    found = product(inputs, regression.coefficients)
    return found + jnp.broadcast_to(regression.intercept, found.shape)


def _prior(prior: jax.Array) -> jax.Array:
    """Return the prior divided by its sum, 0 where it is no number above 0; raise if it is known to have none."""
    check_shape("prior", prior, (None,))
    check_floating("prior", prior)
    usable = jnp.isfinite(prior) & (prior > 0)
    if not isinstance(usable, jax.core.Tracer) and not bool(jnp.any(usable)):
        raise ValueError(f"prior is {np.asarray(prior).tolist()}, wanted a number above 0.")
    return shares(jnp.where(usable, prior, 0).astype(weight_dtype(prior.dtype)))


def _features(mixtures: jax.Array, quadratic: bool) -> jax.Array:
    if not quadratic:
        return mixtures
    first, second = np.triu_indices(mixtures.shape[-1])
    return jnp.concatenate([mixtures, mixtures[..., first] * mixtures[..., second]], axis=-1)


def _dirichlet(key: jax.Array, alphas: jax.Array) -> jax.Array:
    """Draw from Dirichlet distributions by logarithms of gammas, as small alphas underflow; alpha 0 gives 0."""
    logs = jax.random.loggamma(key, jnp.where(alphas > 0, alphas, 1), dtype=alphas.dtype)
    return jax.nn.softmax(jnp.where(alphas > 0, logs, -jnp.inf), axis=-1)
