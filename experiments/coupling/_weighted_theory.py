"""The plans of `weighted_flow` without training: weighted pairs, entropic transport, and averages over mini-batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.coupling._toy_densities import far_modes, moons
from minibatch_jax.coupling import gibbs_weights, sinkhorn
from minibatch_jax.coupling.costs import euclidean_cost

SETTINGS = ("circles", "modes", "moons")
BATCHES = 400


def clouds(setting: str, rng: np.random.Generator, size: int) -> tuple[jax.Array, jax.Array]:
    """Sources and targets `[size, 2]`: two circles of evenly spaced points, or normal points and a toy density.

    On the circles the mean kernel of a point to the other circle is the same for all points.
    """
    if setting == "circles":
        turns = 2 * np.pi * np.arange(size) / size
        angles = turns[None] + rng.uniform(0, 2 * np.pi, (2, 1))
        points = np.stack([np.cos(angles), np.sin(angles)], axis=2) * np.array([1.0, 3.0])[:, None, None]
        return jnp.asarray(points[0], jnp.float32), jnp.asarray(points[1], jnp.float32)
    target = far_modes(rng, size) if setting == "modes" else moons(rng, size)
    return jnp.asarray(rng.normal(size=(size, 2)), jnp.float32), jnp.asarray(target)


@jax.jit
def plans(x0: jax.Array, x1: jax.Array, epsilon: float | jax.Array) -> dict[str, jax.Array]:
    """The plan of all weighted pairs, the entropic plan, and the entropic plan of the weighted pairs' marginals."""
    cost = euclidean_cost(x0, x1)
    size0, size1 = cost.shape
    weighted = gibbs_weights(cost, jnp.full(cost.shape, 1 / (size0 * size1)), epsilon=epsilon)
    options = {"epsilon": epsilon, "tolerance": 1e-5, "max_iterations": 5000}
    entropic = sinkhorn(cost, **options).matrix
    rows, columns = jnp.sum(weighted, axis=1), jnp.sum(weighted, axis=0)
    tilted = sinkhorn(cost, rows / jnp.sum(rows), columns / jnp.sum(columns), **options).matrix
    return {"cost": cost, "weighted": weighted, "entropic": entropic, "tilted": tilted}


def bias(setting: str, size: int, epsilons: tuple[float, ...], seed: int) -> dict[float, dict[str, float]]:
    """How far weighted pairs are from the entropic plan, by epsilon; distances of laws are total variations."""
    x0, x1 = clouds(setting, np.random.default_rng(seed), size)
    curve = {}
    for epsilon in epsilons:
        found = plans(x0, x1, epsilon)
        weighted, entropic = found["weighted"], found["entropic"]
        curve[epsilon] = {
            "to_entropic_plan": distance(weighted, entropic),
            "to_plan_of_own_marginals": distance(weighted, found["tilted"]),
            "source_marginal": distance(jnp.sum(weighted, axis=1), jnp.full(size, 1 / size)),
            "target_marginal": distance(jnp.sum(weighted, axis=0), jnp.full(size, 1 / size)),
            "cost_of_weighted": jnp.sum(weighted * found["cost"]),
            "cost_of_entropic": jnp.sum(entropic * found["cost"]),
            "cost_of_independent": jnp.mean(found["cost"]),
        }
    return curve


def limit(
    setting: str, size: int, epsilon: float, batch_sizes: tuple[int, ...], seed: int
) -> dict[int, dict[str, float]]:
    """How far the mean plan of random mini-batches is from the plans of all points, by the size of a batch.

    A batch is drawn with replacement, so the size has no bound. The means have the plans of all points as control
    variates.
    """
    x0, x1 = clouds(setting, np.random.default_rng(seed), size)
    found = plans(x0, x1, epsilon)
    curve = {}
    for batch_size in batch_sizes:
        key = jax.random.fold_in(jax.random.key(seed), batch_size)
        entropic = found["entropic"] + mean_entropic(key, found, epsilon, batch_size)
        weighted = found["weighted"] + mean_weighted(key, found, epsilon, batch_size)
        curve[batch_size] = {
            "entropic_to_entropic": distance(entropic, found["entropic"]),
            "entropic_to_weighted": distance(entropic, found["weighted"]),
            "weighted_to_weighted": distance(weighted, found["weighted"]),
            "weighted_to_entropic": distance(weighted, found["entropic"]),
        }
    return curve


@functools.partial(jax.jit, static_argnums=3)
def mean_entropic(key: jax.Array, found: dict[str, jax.Array], epsilon: float, batch_size: int) -> jax.Array:
    """The mean entropic plan of batches, less that of all points.

    A batch is a problem with its counts as marginals.
    """
    cost = found["cost"]
    density = found["entropic"] * cost.size

    def one(key):
        a, b = (_shares(k, batch_size, n) for k, n in zip(jax.random.split(key), cost.shape, strict=True))
        plan = sinkhorn(cost, a, b, epsilon=epsilon, tolerance=1e-3, max_iterations=1000).matrix
        return plan - density * a[:, None] * b[None]

    return jnp.mean(jax.lax.map(one, jax.random.split(key, BATCHES)), axis=0)


@functools.partial(jax.jit, static_argnums=3)
def mean_weighted(key: jax.Array, found: dict[str, jax.Array], epsilon: float, batch_size: int) -> jax.Array:
    """The mean of the weights of independent pairs, normalized in each batch, less those of all pairs."""
    cost = found["cost"]
    density = found["weighted"] * cost.size

    def one(key):
        keys = jax.random.split(key)
        rows, columns = (jax.random.randint(k, (batch_size,), 0, n) for k, n in zip(keys, cost.shape, strict=True))
        weights = gibbs_weights(cost[rows, columns], jnp.full(batch_size, 1 / batch_size), epsilon=epsilon)
        return jnp.zeros_like(cost).at[rows, columns].add(weights - density[rows, columns] / batch_size)

    return jnp.mean(jax.lax.map(one, jax.random.split(key, BATCHES)), axis=0)


def distance(p: jax.Array, q: jax.Array) -> float:
    """Total variation of two laws."""
    return float(jnp.sum(jnp.abs(p - q)) / 2)


def _shares(key: jax.Array, batch_size: int, size: int) -> jax.Array:
    """The share of each of `size` points in a batch."""
    return jnp.bincount(jax.random.randint(key, (batch_size,), 0, size), length=size) / batch_size
