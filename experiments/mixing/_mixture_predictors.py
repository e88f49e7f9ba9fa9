"""Fits of a loss to runs: each gives a function from mixtures to predictions. What was tuned is an argument."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.shared.mixture_runs import DOMAINS, VALIDATED, Runs
from minibatch_jax.mixing import (
    fit_bimix,
    fit_mixing_law,
    fit_regression,
    predict_bimix,
    predict_losses,
    predict_regression,
)

Predict = Callable[[np.ndarray], np.ndarray]
MOST_RUNS = 512
OWN = np.array([DOMAINS.index(domain) for domain in VALIDATED])


def constant(train: Runs, target: str, seed: int) -> Predict:
    """The mean of the fitted runs, whatever the mixture."""
    del seed
    mean = train.target(target).mean()
    return lambda mixtures: np.full(len(mixtures), mean)


def mixing_law(train: Runs, target: str, seed: int, *, ridge: float, delta: float) -> Predict:
    """One law for each validation domain, averaged if the target is their mean."""
    losses = train.losses if target == "mean" else train.target(target)
    law = _fit_law(*_padded(train.mixtures, losses), seed, ridge, delta)
    return lambda mixtures: _mean(predict_losses(law, jnp.asarray(mixtures)))


def bimix(train: Runs, target: str, seed: int, *, floor: float) -> Predict:
    """The law of the own proportion alone, of each validation domain, averaged if the target is their mean."""
    chosen = np.arange(len(VALIDATED)) if target == "mean" else np.array([VALIDATED.index(target)])
    own = OWN[chosen]
    law = _fit_bimix(*_padded(train.mixtures[:, own], train.losses[:, chosen]), seed, floor)
    return lambda mixtures: _mean(predict_bimix(law, jnp.asarray(mixtures[:, own])))


def ridge_regression(train: Runs, target: str, seed: int, *, ridge: float, features: str = "linear") -> Predict:
    """RegMix with a linear or quadratic regression."""
    del seed
    fitted = _fit_regression(*_padded(train.mixtures, train.target(target)), ridge, features)
    return lambda mixtures: np.asarray(predict_regression(fitted, jnp.asarray(mixtures)))


def lightgbm(train: Runs, target: str, seed: int, *, smallest_leaf: int) -> Predict:
    """RegMix with LightGBM at the published rate and number of trees, without early stopping."""
    import lightgbm as lgb

    options = {"learning_rate": 0.01, "verbosity": -1, "n_jobs": 1, "random_state": seed}
    model: Any = lgb.LGBMRegressor(n_estimators=1000, min_child_samples=smallest_leaf, **options)
    model.fit(train.mixtures, train.target(target))
    return lambda mixtures: _quiet(model.predict, mixtures)


def gaussian_process(train: Runs, target: str, seed: int, *, own_lengths: bool, floor: float | None = None) -> Predict:
    """Matern 5/2 with noise, of scikit-learn, its numbers by marginal likelihood; a length for each domain or one.

    With a floor, on logarithms of proportions of at least that, in units of the range.
    """
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    lengths: Any = np.ones(len(DOMAINS)) if own_lengths else 1.0
    matern = Matern(lengths, (0.05, 100.0), nu=2.5)
    kernel = ConstantKernel(1.0, (0.01, 1e4)) * matern + WhiteKernel(1e-3, (1e-6, 1.0))
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)

    def inputs(mixtures: np.ndarray) -> np.ndarray:
        return mixtures if floor is None else 1 - np.log(np.maximum(mixtures, floor)) / np.log(floor)

    _quiet(model.fit, inputs(train.mixtures), train.target(target))
    return lambda mixtures: np.asarray(model.predict(inputs(mixtures)))


def _quiet(function: Callable[..., Any], *args: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of columns, and lengths at a bound
        return function(*args)


def _mean(losses: jax.Array) -> np.ndarray:
    return np.asarray(losses if losses.ndim == 1 else losses.mean(axis=1))


def _padded(mixtures: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows up to `MOST_RUNS` whose losses are NaN and so have no weight: one compiled fit for any number of runs."""
    more = MOST_RUNS - len(mixtures)
    uniform = np.full((more, mixtures.shape[1]), 1 / mixtures.shape[1], mixtures.dtype)
    nothing = np.full((more, *losses.shape[1:]), np.nan, losses.dtype)
    return np.concatenate([mixtures, uniform]), np.concatenate([losses, nothing])


@jax.jit
def _fit_law(mixtures, losses, seed, ridge, delta):
    return fit_mixing_law(mixtures, losses, key=seed, ridge=ridge, delta=delta)


@jax.jit
def _fit_bimix(proportions, losses, seed, floor):
    return fit_bimix(proportions, losses, key=seed, floor=floor)


@functools.partial(jax.jit, static_argnames="features")
def _fit_regression(mixtures, losses, ridge, features):
    return fit_regression(mixtures, losses, ridge=ridge, features=features)
