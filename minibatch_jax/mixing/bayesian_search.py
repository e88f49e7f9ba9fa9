"""Which mixture to train next, and how large a model on it: Bayesian optimization over a pool and several fidelities.

A Gaussian process learns from the runs made so far how score depends on mixture and fidelity. Each suggestion is the
open row and fidelity that tell most about the best score at the target for their cost. The paper takes one sample of
the maximum and lets gain per cost decide alone; here the samples are averaged, and a guard bounds what may be spent
below the target: a run a sixtieth as dear wins by its cost for very long, also where it has little left to tell. The
paper's process sees proportions; here it sees their square roots, because losses change most near proportion 0.

References:
  Chen et al., ADMIRE-BayesOpt: accelerated data mixture re-weighting for language models with Bayesian optimization,
  2025 (arXiv 2508.11551).

Method: ADMIRE-BayesOpt
Paper: 2508.11551
Experiment: mixture_search
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import (
    as_key,
    check_choice,
    check_count,
    check_floating,
    check_integer,
    check_number,
    check_shape,
    mask_or_all,
)
from minibatch_jax._vector import first_max
from minibatch_jax.geometry import product
from minibatch_jax.mixing._gaussian import kernel, learned_covariance, learned_variances, points_of, variances
from minibatch_jax.mixing.acquisitions import fidelity_max_value_gain, log_expected_improvement
from minibatch_jax.mixing.gaussian_process import GaussianProcess, Hyperparameters, fit_gaussian_process
from minibatch_jax.weights import weight_dtype


class Suggestion(NamedTuple):
    """What to evaluate next.

    Attributes:
      row: `[]` int32, of the pool; -1 if the pool is exhausted.
      fidelity: `[]` int32, index into the costs; -1 if the pool is exhausted.
      gain: `[]`, of this evaluation, not divided by its cost: nats about the maximum, or log expected improvement.
      guarded: `[]` bool, whether the guard asked for the target fidelity.
      exhausted: `[]` bool, whether no row is open at any fidelity that the acquisition may choose.
      process: the fitted process; its `hyperparameters` make a good `start` for the next suggestion.
    """

    row: jax.Array
    fidelity: jax.Array
    gain: jax.Array
    guarded: jax.Array
    exhausted: jax.Array
    process: GaussianProcess


class Recommendation(NamedTuple):
    """The row of a pool with the best prospect at the target.

    Attributes:
      row: `[]` int32, of the pool.
      mean: `[]`, its posterior mean at the target, in units of the scores.
      deviation: `[]`, its posterior deviation.
    """

    row: jax.Array
    mean: jax.Array
    deviation: jax.Array


def suggest_mixture(
    key: jax.Array | int,
    mixtures: jax.Array,
    fidelities: jax.Array,
    scores: jax.Array,
    pool: jax.Array,
    costs: Sequence[float] = (1.0,),
    *,
    mask: jax.Array | None = None,
    acquisition: str = "max_value",
    target_share: float | jax.Array = 0.8,
    exponent: float | jax.Array = 0.5,
    num_samples: int = 16,
    start: Hyperparameters | None = None,
    num_starts: int = 4,
    max_iterations: int = 100,
) -> Suggestion:
    """Return the row of the pool, and the fidelity, to evaluate next.

    A process is fitted to the runs, at fidelity values `cost / largest cost`. With "max_value" the choice is the open
    row and fidelity of the largest `fidelity_max_value_gain` of its noisy observation, divided by its cost. With
    "expected_improvement" it is the open row of the largest `log_expected_improvement` over the best score at the
    target, always at the target. Among equal values the cheapest fidelity counts, then the first row.

    The guard: an evaluation below the target is allowed as long as all of them together cost at most
    `(1 - target_share) / target_share` times what runs at the target have cost, one more of these included. So a search
    costs at most `1 / target_share` times its runs at the target, the next one included.

    A run in the mask whose score is not finite has failed: it does not enter the fit, is not suggested again, and has
    cost what it costs. Rows outside the mask are padding. A row of the pool is never suggested at a fidelity at which
    an equal mixture was run. Memory grows with the square of the pool: up to some thousand rows.

    Args:
      key: int seed or key, for the samples of the maximum and the starts of the fit.
      mixtures: `[N, K]`, floating point, of the runs.
      fidelities: `[N]`, integers, which of `costs` each run had; all 0 if there is one cost.
      scores: `[N]`, floating point, of each run; larger is better, such as minus a loss.
      pool: `[M, K]`, floating point, mixtures to choose from, within the caps if there are any. A row that is not
        finite is not chosen.
      costs: cost of a run at each fidelity, increasing; the last one is the target.
      mask: `[N]` bool, runs that were made; None means all.
      acquisition: "max_value" or "expected_improvement".
      target_share: share of the costs that runs at the target have at least, in (0, 1]; 1 allows no other, and a tiny
        number any.
      exponent: the process sees proportions to this power, in (0, 1]. With 0.5 its distances are Hellinger's; the paper
        has 1.
      num_samples: joint samples of the scores of the pool at the target; the maximum of each is a sample.
      start: hyperparameters of the last suggestion, for the fit to start from as well.
      num_starts: of the fit, `start` included.
      max_iterations: of the fit.

    Returns:
      A `Suggestion`.

    Raises:
      TypeError: if an array has the wrong kind of numbers or a count is not an int.
      ValueError: if shapes do not match, the costs are not positive and increasing, a concrete mixture does not sum to
        one within 0.01 or lies outside [0, 1], a concrete fidelity has no cost, the acquisition is unknown, or a number
        is out of range.

    References:
      Chen et al., ADMIRE-BayesOpt, 2025 (arXiv 2508.11551).
      Takeno et al., Multi-fidelity Bayesian optimization with max-value entropy search, 2020 (arXiv 1901.08275).

    Examples:
      >>> share = jnp.linspace(0, 1, 5)
      >>> pool = jnp.stack([share, 1 - share], axis=1)
      >>> runs = jnp.array([0, 2, 4])
      >>> scores = -(share[runs] - 0.7) ** 2
      >>> nothing = jnp.zeros(3, jnp.int32)
      >>> int(suggest_mixture(0, pool[runs], nothing, scores, pool, max_iterations=20).row)
      3
    """
    check_shape("pool", pool, (None, None))
    check_floating("pool", pool)
    check_shape("mixtures", mixtures, (None, pool.shape[1]))
    check_shape("fidelities", fidelities, mixtures.shape[:1])
    check_integer("fidelities", fidelities)
    check_choice("acquisition", acquisition, ("max_value", "expected_improvement"))
    check_number("target_share", target_share, 0, 1, open_low=True)
    check_number("exponent", exponent, 0, 1, open_low=True)
    check_count("num_samples", num_samples)
    mask = mask_or_all("mask", mask, mixtures.shape[:1])
    prices = _checked_costs(costs)
    _check_mixtures("pool", pool, None)
    _check_mixtures("mixtures", mixtures, mask)
    _check_fidelities(fidelities, mask, len(prices))
    levels, equal = len(prices), jnp.all(pool[:, None, :] == mixtures.astype(pool.dtype)[None, :, :], axis=2)
    pool, mixtures = _features(pool, exponent), _features(mixtures, exponent)
    known = (fidelities >= 0) & (fidelities < levels) & mask
    which = jnp.where(known, fidelities, levels - 1).astype(jnp.int32)
    values = jnp.asarray(prices / prices[-1], mixtures.dtype)
    fit_key, sample_key = jax.random.split(as_key(key))
    spread = jnp.std(jnp.where(jnp.isfinite(pool), pool, 0), axis=0)
    process = fit_gaussian_process(
        fit_key, mixtures, scores, None if levels == 1 else values[which], mask=known, spread=spread, start=start,
        num_starts=num_starts, max_iterations=max_iterations,
    )  # fmt: skip
    if acquisition == "max_value":
        gains = _max_value_gains(sample_key, process, pool, values, num_samples)
        merit = jnp.log(gains) - jnp.log(jnp.asarray(prices, gains.dtype))[:, None]
    else:
        counted = process.rows.counted & (which == levels - 1)
        gains = merit = jnp.tile(_improvements(process, pool, scores, counted)[None], (levels, 1))
    equal &= known[None, :]
    made = jnp.any(equal[None] & (which[None, None, :] == jnp.arange(levels, dtype=jnp.int32)[:, None, None]), axis=2)
    open_ = ~made & jnp.all(jnp.isfinite(pool), axis=1)[None, :]
    if acquisition == "expected_improvement":
        open_ &= jnp.arange(levels, dtype=jnp.int32)[:, None] == levels - 1
    guarded = _is_guarded(known, which, prices, target_share) & jnp.any(open_[-1])
    allowed = open_ & (~guarded | (jnp.arange(levels, dtype=jnp.int32) == levels - 1))[:, None]
    lowest = jnp.finfo(merit.dtype).min  # an open row that nothing can be said of comes before none
    merit = jnp.where(allowed, jnp.where(jnp.isfinite(merit), merit, lowest), -jnp.inf)
    _, best = first_max(jnp.ravel(merit))
    exhausted = ~jnp.any(open_)
    level, row = best // pool.shape[0], best % pool.shape[0]
    return Suggestion(
        jnp.where(exhausted, -1, row),
        jnp.where(exhausted, -1, level),
        jnp.ravel(gains)[best],
        guarded,
        exhausted,
        process,
    )


def recommend_mixture(
    process: GaussianProcess, pool: jax.Array, *, exponent: float | jax.Array = 0.5
) -> Recommendation:
    """Return the row of the pool with the largest posterior mean at the target; of equal ones the first.

    Args:
      process: of a `Suggestion`, or from `fit_gaussian_process` on `mixtures ** exponent`.
      pool: `[M, K]`, floating point. A row that is not finite is not chosen.
      exponent: that of the suggestion.

    Returns:
      A `Recommendation`; its mean is NaN if the covariance of the process was not positive definite.

    Raises:
      ValueError: if the pool does not have the columns of the process, a concrete row does not sum to one within 0.01
        or lies outside [0, 1], or the exponent is not in (0, 1].

    References:
      Chen et al., ADMIRE-BayesOpt, 2025 (arXiv 2508.11551).

    Examples:
      >>> pool = jnp.stack([jnp.linspace(0, 1, 5), 1 - jnp.linspace(0, 1, 5)], axis=1)
      >>> process = fit_gaussian_process(0, jnp.sqrt(pool), -((pool[:, 0] - 0.7) ** 2), num_starts=1)
      >>> int(recommend_mixture(process, pool).row)
      3
    """
    check_shape("pool", pool, (None, process.rows.inputs.shape[1]))
    check_number("exponent", exponent, 0, 1, open_low=True)
    _check_mixtures("pool", pool, None)
    points = _points(process, _features(pool, exponent))
    _, row = first_max(jnp.where(jnp.isfinite(points.mean), points.mean, -jnp.inf))
    mean = process.shift + process.scale * points.mean[row]
    return Recommendation(row, mean, process.scale * _deviations(process, points)[row])


def _features(mixtures, exponent):
    wide = mixtures.astype(weight_dtype(mixtures.dtype))
    return wide ** jnp.asarray(exponent, wide.dtype)


def _max_value_gains(key, process, pool, values, num_samples):
    """Mean gain `[L, M]` of each row at each fidelity over samples of the maximum at the target, standardized."""
    of, size = process.hyperparameters, pool.shape[0]
    target = _points(process, pool)
    dtype, usable = target.mean.dtype, jnp.isfinite(target.mean)
    x = pool.astype(dtype)
    pairs = usable[:, None] & usable[None, :]
    covariance = jnp.where(pairs, kernel(of, x, x) + learned_covariance(target, target), 0)
    jitter = jnp.where(usable, (1e-5 if dtype == jnp.float32 else 1e-9) * of.variance, 1)
    factor = jnp.linalg.cholesky(covariance + jnp.diag(jitter))
    draws = target.mean[:, None] + product(factor, jax.random.normal(key, (size, num_samples), dtype))
    maxima = jnp.max(jnp.where(usable[:, None], draws, -jnp.inf), axis=0)
    deviation = _deviations(process, target)
    gains = []
    for value in values:
        fidelity = jnp.full(size, value, dtype)
        points = _points(process, pool, fidelity)
        observed = jnp.sqrt(_deviations(process, points, fidelity) ** 2 + of.noise)
        shared = variances(of, size) + learned_variances(points, target)
        rho = jnp.clip(shared / (deviation * observed), -1, 1)
        gain = fidelity_max_value_gain(target.mean[:, None], deviation[:, None], maxima[None, :], rho[:, None])
        gains.append(jnp.mean(gain, axis=1))
    return jnp.stack(gains)


def _improvements(process, pool, scores, counted):
    """Log expected improvement `[M]` at the target, in units of the scores."""
    points = _points(process, pool)
    mean = process.shift + process.scale * points.mean
    seen = jnp.max(jnp.where(counted, scores.astype(mean.dtype), -jnp.inf))
    expected = jnp.max(jnp.where(jnp.isfinite(mean), mean, -jnp.inf))
    best = jnp.where(jnp.any(counted), seen, expected)
    return log_expected_improvement(mean, process.scale * _deviations(process, points), best)


def _points(process, pool, fidelities=None):
    x = pool.astype(process.factors.factor.dtype)
    return points_of(process.hyperparameters, process.rows, process.factors, x, fidelities)


def _deviations(process, points, fidelities=None):
    """Posterior deviation of each point, at least that of the rounding error of the prior variance."""
    prior = variances(process.hyperparameters, points.mean.shape[0], fidelities)
    least = 4 * jnp.finfo(prior.dtype).eps * prior
    return jnp.sqrt(jnp.maximum(prior + learned_variances(points, points), least))


def _is_guarded(known, which, prices, target_share):
    """Whether the next run must be one at the target."""
    dtype = jnp.float32
    made = known[:, None] & (which[:, None] == jnp.arange(len(prices), dtype=jnp.int32)[None, :])
    spent = jnp.sum(made.astype(dtype), axis=0) * jnp.asarray(prices, dtype)
    share = jnp.asarray(target_share, dtype)
    below, cheapest = jnp.sum(spent[:-1]), jnp.asarray(prices[0], dtype)
    return (below + cheapest) * share > (1 - share) * (spent[-1] + jnp.asarray(prices[-1], dtype)) * (1 + 1e-5)


def _checked_costs(costs):
    prices = np.asarray(costs, np.float64)
    if prices.ndim != 1 or not (
        prices.size and np.all(np.isfinite(prices)) and prices[0] > 0 and np.all(np.diff(prices) > 0)
    ):
        raise ValueError(f"costs is {prices.tolist()}, wanted a list of positive and increasing numbers.")
    return prices


def _check_fidelities(fidelities, mask, levels):
    """Raise if a concrete run has a fidelity that no cost is known of."""
    if isinstance(fidelities, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        return
    found = np.asarray(fidelities)[np.asarray(mask)]
    if found.size and (found.min() < 0 or found.max() >= levels):
        raise ValueError(f"fidelities has {found.min()} to {found.max()}, wanted 0 to {levels - 1}, one for each cost.")


def _check_mixtures(name, mixtures, mask):
    """Raise unless concrete rows, those in the mask and finite, are mixtures."""
    if isinstance(mixtures, jax.core.Tracer) or isinstance(mask, jax.core.Tracer):
        return
    rows = np.asarray(mixtures, np.float64)
    rows = rows if mask is None else rows[np.asarray(mask)]
    rows = rows[np.all(np.isfinite(rows), axis=1)]
    if rows.size and (rows.min() < 0 or np.max(np.abs(rows.sum(axis=1) - 1)) > 0.01):
        worst = rows[np.argmax(np.abs(rows.sum(axis=1) - 1) + np.sum(rows < 0, axis=1))]
        raise ValueError(f"{name} has a row {worst.tolist()} of sum {worst.sum():.6g}, wanted shares that sum to 1.")
