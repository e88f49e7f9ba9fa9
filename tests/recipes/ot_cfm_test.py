"""Train a flow on pairs of noise and images that exact transport makes in each batch.

Method: OT-CFM
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(velocity, params, optimizer, images, key):
    def loss(params, path, weights):
        errors = velocity(params, path.xt, path.t) - path.ut
        return jnp.mean(errors**2, axis=1) @ weights

    def step(carry, key):
        params, opt_state = carry
        keys = jax.random.split(key, 4)
        x1 = jax.random.choice(keys[0], images, (64,))
        x0 = jax.random.normal(keys[1], x1.shape)
        pairs = coupling.flow_matching_pairs(keys[2], x0, x1, coupling.couple_assignment())
        path = coupling.conditional_path(keys[3], pairs.x0, pairs.x1)
        grads = jax.grad(loss)(params, path, pairs.weights)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), jnp.sum(path.ut**2, axis=1)

    start = params, optimizer.init(params)
    (params, _), costs = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, costs


def test_pairs_are_closer_than_random_ones_and_the_flow_generates_digits():
    params, costs = digits.run(
        recipe, digits.velocity, digits.init_velocity(), digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    )
    assert np.mean(costs) < 0.9 * digits.random_cost()
    assert digits.energy_distance(digits.generate(params, digits.noise())) < 0.4
