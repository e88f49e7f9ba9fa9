"""Train a flow and a score on Brownian bridges between entropic pairs.

Method: Schrödinger bridge CFM
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(velocity, params, optimizer, images, key):
    def loss(params, path):
        flow = velocity(params["flow"], path.xt, path.t) - path.ut
        score = velocity(params["score"], path.xt, path.t) - path.noise
        return jnp.mean(flow**2) + jnp.mean(score**2)

    def step(carry, key):
        params, opt_state = carry
        keys = jax.random.split(key, 4)
        x1 = jax.random.choice(keys[0], images, (64,))
        x0 = jax.random.normal(keys[1], x1.shape)
        pairs = coupling.schroedinger_bridge_pairs(keys[2], x0, x1, sigma=1.0)
        path = coupling.bridge_path(keys[3], pairs.x0, pairs.x1, sigma=1.0)
        updates, opt_state = optimizer.update(jax.grad(loss)(params, path), opt_state)
        return (optax.apply_updates(params, updates), opt_state), (pairs, path)

    start = params, optimizer.init(params)
    (params, _), seen = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, seen


def test_pairs_are_close_and_both_networks_learn():
    params = {"flow": digits.init_velocity(0), "score": digits.init_velocity(1)}
    params, (pairs, path) = digits.run(
        recipe, digits.velocity, params, digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    )
    assert np.all(pairs.state.converged)
    assert np.mean(np.sum((pairs.x1 - pairs.x0) ** 2, axis=-1)) < 0.95 * digits.random_cost()
    last = jax.tree.map(lambda a: a[-1], path)
    assert np.mean((digits.velocity(params["score"], last.xt, last.t) - last.noise) ** 2) < 0.7  # 1 for no guess
    assert digits.energy_distance(digits.generate(params["flow"], digits.noise())) < 1.2  # 3.4 for noise
