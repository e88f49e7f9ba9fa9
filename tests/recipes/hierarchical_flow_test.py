"""Train a flow of two levels on noise that is paired with the images, and draw samples from it.

Method: hierarchical rectified flow
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(acceleration, params, optimizer, images, noise, key):
    def loss(params, path):
        return jnp.mean((acceleration(params, path.states, path.times) - path.target) ** 2)

    def step(carry, key):
        params, opt_state = carry
        rows_key, path_key = jax.random.split(key)
        x1 = jax.random.choice(rows_key, images, (64,))
        path = coupling.hierarchical_path(path_key, x1, groups=(64, 1))
        updates, opt_state = optimizer.update(jax.grad(loss)(params, path), opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), jnp.sum((path.noise[:, 0] - x1) ** 2, axis=1)

    carry, keys = (params, optimizer.init(params)), jax.random.split(key, 150)
    (params, _), costs = jax.lax.scan(step, carry, keys)
    model = functools.partial(acceleration, params)
    places = coupling.hierarchical_trajectories(key, model, noise, steps=(4, 5))
    return places[-1], costs


def acceleration(params, states, times):
    return digits.velocity(params, states.reshape(len(states), -1), times)


def test_samples_near_the_images_come_from_pairs_that_are_near():
    start = digits.init_velocity(scalars=2, vectors=2)
    images, noise = digits.train()["x"], digits.noise()
    samples, costs = recipe(acceleration, start, digits.OPTIMIZER, images, noise, digits.KEY(0))
    assert np.mean(costs) < 0.95 * digits.random_cost()
    assert digits.energy_distance(samples) < 0.65  # 3.4 for noise
