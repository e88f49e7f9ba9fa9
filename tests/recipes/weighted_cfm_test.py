"""Train a flow on random pairs that weigh more the closer they are.

Method: weighted CFM
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling, effective_sample_size, value_and_grad
from tests.recipes import digits


def recipe(velocity, params, optimizer, images, key):
    couple = coupling.couple_by_kernel(0.5, relative_to="std")

    def losses(params, path):
        return jnp.mean((velocity(params, path.xt, path.t) - path.ut) ** 2, axis=1)

    def step(carry, key):
        params, opt_state, state = carry
        keys = jax.random.split(key, 3)
        x1 = jax.random.choice(keys[0], images, (64,))
        path = coupling.conditional_path(keys[1], jax.random.normal(keys[2], x1.shape), x1)
        cost = jnp.linalg.norm(path.ut, axis=1)
        (_, aux), grads, state = value_and_grad(losses, couple)(params, path, state, cost=cost)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, state), (cost, aux.weights)

    start = params, optimizer.init(params), couple.init(jnp.zeros(64))
    (params, *_), seen = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, seen


def test_near_pairs_weigh_more_and_the_flow_generates_digits():
    params, (cost, weights) = digits.run(
        recipe, digits.velocity, digits.init_velocity(), digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    )
    np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=1e-5)
    assert np.mean(np.sum(weights * cost**2, axis=1)) < 0.9 * digits.random_cost()
    assert all(np.corrcoef(c, np.log(w))[0, 1] < -0.99 for c, w in zip(cost, weights, strict=True))
    assert effective_sample_size(weights[-1]) < 40
    assert digits.energy_distance(digits.generate(params, digits.noise())) < 0.6
