"""Train a flow on pairs of the best of 64 random projections: sorts only, whatever the size of the batch.

Method: 1-D and sliced transport
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(velocity, params, optimizer, images, key):
    def loss(params, path):
        return jnp.mean((velocity(params, path.xt, path.t) - path.ut) ** 2)

    def step(carry, key):
        params, opt_state = carry
        keys = jax.random.split(key, 5)
        x1 = jax.random.choice(keys[0], images, (64,))
        x0 = jax.random.normal(keys[1], x1.shape)
        plan = coupling.sliced_plan(keys[2], x0, x1, 64)
        pairs = coupling.flow_matching_pairs(keys[3], x0, x1, plan)
        path = coupling.conditional_path(keys[4], pairs.x0, pairs.x1)
        grads = jax.grad(loss)(params, path)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), (pairs.source, path.ut)

    start = params, optimizer.init(params)
    (params, _), seen = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, seen


def test_pairs_are_closer_than_random_ones_and_the_flow_generates_digits():
    params, (source, ut) = digits.run(
        recipe, digits.velocity, digits.init_velocity(), digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    )
    assert np.array_equal(np.sort(source, axis=1), np.tile(np.arange(64), (150, 1)))  # one to one
    assert np.mean(np.sum(ut**2, axis=-1)) < 0.98 * digits.random_cost()
    assert digits.energy_distance(digits.generate(params, digits.noise())) < 0.4
