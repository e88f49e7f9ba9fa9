"""Correlation, kernels, distance or reconstruction: what two views of a digit that share only its class are worth."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.engine import compare
from experiments.modules._noisy_views import kernel_codes, linear_codes, noisy_views, random_codes
from experiments.modules._two_view_scores import Codes, Digits, scores
from experiments.modules._two_view_training import encode, fit, initial_params, objectives

FEATURES = (250, 1000)
"""numbers of random features of each view"""


class Tuned(NamedTuple):
    """Learning rate, and weight of the reconstruction, best on held-out training digits with seed 10."""

    learning_rate: float
    reconstruction: float = 1.0


TUNED = {
    "DCCA": Tuned(3e-3),
    "DCCAE": Tuned(3e-3),
    "CorrAE": Tuned(3e-3),
    "DistAE": Tuned(1e-3),
    "autoencoders": Tuned(3e-3),
}
BETTER = {"correlation_test": "higher", "probe_accuracy": "higher", "cluster_accuracy": "higher"}
CANONICAL = ("DCCA", "DCCAE")


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the objective, and in what was tuned for each."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/noisy_view_correlation"
    arms: tuple[str, ...] = ()
    train_rows: int = 4000
    test_rows: int = 1000
    kernel_rows: int = 1000
    """that exact kernel CCA sees"""
    dimensions: int = 10
    epochs: int = 25
    batch_size: int = 200
    hidden: int = 128
    """width of the two hidden layers of each network"""
    ridge: float = 1e-3
    """of the correlations of networks"""
    linear_ridge: float = 1.0
    """of linear CCA"""
    kernel_ridge: float = 1e-3
    """of kernel CCA, as a fraction of the variance of all features"""
    weight_decay: float = 0.1
    """of AdamW"""
    learning_rate: float | None = None
    """None: as tuned for each arm"""
    reconstruction: float | None = None
    """weight of the errors of both decoders; None: as tuned for each arm"""
    validate: bool = False
    """test on digits of the training set: for tuning"""


def main(config: Config):
    """Fit all arms and report."""
    k = config.dimensions
    fits: dict[str, Callable[..., Codes]] = {
        "linear CCA": lambda train, test, seed: linear_codes(train, test, k, config.linear_ridge),
        f"kernel CCA, {config.kernel_rows} rows": lambda train, test, seed: kernel_codes(
            train, test, k, config.kernel_ridge, config.kernel_rows
        ),
        **{f"kernel CCA, {number} random features": partial(random_arm, config, number) for number in FEATURES},
        **{name: partial(trained_arm, config, name) for name in TUNED},
    }
    arms: dict[str, Any] = {name: partial(scored, config, name, fit_codes) for name, fit_codes in fits.items()}
    return compare(config, arms, baseline="autoencoders", better=BETTER)


def scored(config: Config, name: str, fit_codes: Callable[..., Codes], seed: int) -> dict[str, float]:
    """Scores of the codes of one arm, and the CPU time it took to find them, compilation included."""
    train, test = noisy_views(config.train_rows, config.test_rows, config.validate, seed)
    started = time.process_time()
    codes = fit_codes(train, test, seed)
    seconds = time.process_time() - started
    canonical = name in CANONICAL or "CCA" in name
    return {**scores(codes, train, test, seed, config.ridge, canonical=canonical), "cpu_seconds": seconds}


def random_arm(config: Config, features: int, train: Digits, test: Digits, seed: int) -> Codes:
    """Kernel CCA of random features."""
    return random_codes(train, test, config.dimensions, config.kernel_ridge, features, seed)


def trained_arm(config: Config, name: str, train: Digits, test: Digits, seed: int) -> Codes:
    """Networks trained by one objective; all start from the same parameters and see the same batches."""
    rate = TUNED[name].learning_rate if config.learning_rate is None else config.learning_rate
    weight = TUNED[name].reconstruction if config.reconstruction is None else config.reconstruction
    objective = objectives(config.ridge, weight, 0.0)[name]
    sizes = train.first.shape[1], train.second.shape[1]
    params = initial_params(sizes, config.hidden, config.dimensions, seed)
    key = jax.random.fold_in(jax.random.key(seed), 1)
    views = tuple(map(jnp.asarray, train[:2]))
    return encode(
        fit(objective, config.epochs, config.batch_size, rate, config.weight_decay, params, key, views), train, test
    )
