"""The ABC part of `hierarchical_transport`: the posterior of a variance by distances between data."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.coupling._bomb_data import abc_data, true_posterior
from experiments.coupling._bomb_methods import FULL, full_value, methods
from experiments.coupling._bomb_report import draw_posteriors
from experiments.engine import compare
from minibatch_jax.coupling.costs import squared_euclidean_cost


def run_abc(config: Any):
    """Posterior of the variance: the simulations whose data are nearest to the observed ones, by each distance."""
    out = Path(config.out)

    def arm(number, distance):
        nearest = jax.jit(functools.partial(accepted, config, distance))

        def fit(seed):
            mean, observed = abc_data(seed, config.abc_items)
            found = np.sort(np.asarray(nearest(jax.random.key(seed), mean, observed)))
            truth = true_posterior(mean, observed, config.abc_accepted)
            if seed == config.seeds[0]:
                np.savez(out / f"posterior_{number}.npz", found=found, truth=truth)
            return {
                "w2_to_posterior": np.sqrt(np.mean((found - truth) ** 2)),
                "mean_less_truth": found.mean() - truth.mean(),
                "spread_over_truth": found.std() / truth.std(),
            }

        return fit

    distances = abc_distances(config)
    arms: dict[str, Any] = {name: arm(number, distances[name]) for number, name in enumerate(distances)}
    records = compare(config, arms, baseline="m-OT", better={"w2_to_posterior": "lower"})
    files = {name: out / f"posterior_{number}.npz" for number, name in enumerate(arms) if name != "prior"}
    draw_posteriors({name: dict(np.load(f)) for name, f in files.items() if f.exists()}, out / "posteriors.png")
    return records


def abc_distances(config: Any) -> dict[str, Callable]:
    """Name -> distance of simulated to observed data: `distance(key, simulated, observed, mean)`."""

    def by_mini_batches(method, key, x, y, mean):
        sizes = len(x), len(y)
        return method.value(key, lambda i, j: squared_euclidean_cost(x[i], y[j]), sizes, config.abc_k, config.m, True)

    found: dict[str, Callable] = {"prior": lambda key, x, y, mean: jax.random.uniform(key)}
    found |= {
        name: functools.partial(by_mini_batches, method) for name, method in methods(config.outer_epsilon).items()
    }
    found[FULL] = lambda key, x, y, mean: full_value(squared_euclidean_cost(x, y))
    found["sufficient statistic"] = lambda key, x, y, mean: jnp.abs(jnp.log(spread(x, mean) / spread(y, mean)))
    return found


def accepted(config: Any, distance: Callable, key: jax.Array, mean: jax.Array, observed: jax.Array) -> jax.Array:
    """The variances, of draws from the prior, whose simulated data are nearest to the observed ones."""
    prior_key, simulation_key = jax.random.split(key)
    variances = 1 / jax.random.gamma(prior_key, 1.0, (config.abc_simulations,))

    def simulated_distance(inputs):
        variance, key = inputs
        data_key, batch_key = jax.random.split(key)
        simulated = mean[None] + jnp.sqrt(variance) * jax.random.normal(data_key, observed.shape)
        return distance(batch_key, simulated, observed, mean)

    distances = lax.map(simulated_distance, (variances, jax.random.split(simulation_key, config.abc_simulations)))
    return variances[lax.top_k(-distances, config.abc_accepted)[1]]


def spread(x: jax.Array, mean: jax.Array) -> jax.Array:
    """Mean squared distance to the mean, sufficient for the variance."""
    return jnp.mean((x - mean[None]) ** 2)
