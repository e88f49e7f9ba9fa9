"""Train a flow from noise to images on the path that Lipman et al. take.

Method: paths of a flow
"""

import jax
import jax.numpy as jnp
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
        noise = jax.random.normal(keys[1], x1.shape)
        path = coupling.conditional_path(keys[2], noise, x1, 0.01, path="target")
        grads = jax.grad(loss)(params, path)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, jax.random.split(key, 150))[0][0]


def test_the_flow_generates_digits():
    run = digits.init_velocity(), digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    params = digits.run(recipe, digits.velocity, *run)
    assert digits.energy_distance(digits.generate(params, digits.noise())) < 0.4
