"""Train a flow on the noise of the batch that is assigned to each image.

Method: immiscible diffusion
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
        keys = jax.random.split(key, 3)
        x1 = jax.random.choice(keys[0], images, (64,))
        x0 = coupling.immiscible_noise(keys[1], x1, bits=8)
        path = coupling.conditional_path(keys[2], x0, x1)
        grads = jax.grad(loss)(params, path)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), (x0, path.ut)

    start = params, optimizer.init(params)
    (params, _), seen = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, seen


def test_the_noise_stays_gaussian_and_near_and_the_flow_generates_digits():
    params, (x0, ut) = digits.run(
        recipe, digits.velocity, digits.init_velocity(), digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    )
    x0 = np.asarray(x0).reshape(-1, 64)
    assert np.abs(x0.mean(axis=0)).max() < 0.05 and np.abs(x0.std(axis=0) - 1).max() < 0.05
    assert np.mean(np.sum(ut**2, axis=-1)) < 0.95 * digits.random_cost()
    assert digits.energy_distance(digits.generate(params, digits.noise())) < 0.4
