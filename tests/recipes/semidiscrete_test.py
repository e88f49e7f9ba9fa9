"""Train a flow on fresh noise that is paired with the whole data set, by one learned potential of each image.

Method: semi-discrete transport
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(velocity, params, optimizer, images, key):
    couple = coupling.couple_semidiscrete(epsilon=0.0, learning_rate=2.0, decay=0.9)

    def loss(params, path):
        return jnp.mean((velocity(params, path.xt, path.t) - path.ut) ** 2)

    def step(carry, key):
        params, opt_state, state = carry
        keys = jax.random.split(key, 3)
        x0 = jax.random.normal(keys[0], (64, 64))
        pairs = coupling.flow_matching_pairs(keys[1], x0, images, couple, mode="rows", state=state)
        path = coupling.conditional_path(keys[2], pairs.x0, pairs.x1)
        updates, opt_state = optimizer.update(jax.grad(loss)(params, path), opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, pairs.state), (pairs.target, path.ut)

    start = params, optimizer.init(params), couple.init(jnp.zeros((64, len(images))))
    (params, *_), seen = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, seen


def test_all_images_are_used_and_near_and_the_flow_generates_digits():
    images = digits.train()["x"][:128]
    params, (target, ut) = digits.run(
        recipe, digits.velocity, digits.init_velocity(), digits.OPTIMIZER, images, digits.KEY(0)
    )
    used = np.bincount(np.asarray(target[-100:]).reshape(-1), minlength=128) / 50
    cost = coupling.costs.squared_euclidean_cost(jax.random.normal(jax.random.key(3), (6400, 64)), images)
    nearest = np.bincount(np.argmin(cost, axis=1), minlength=128) / 50
    assert used.min() > 0 and np.std(used) < 0.5 * np.std(nearest)  # a few images are nearest to most of the noise
    assert np.mean(np.sum(ut[-100:] ** 2, axis=-1)) < 0.9 * digits.random_cost()
    assert digits.energy_distance(digits.generate(params, digits.noise())) < 0.5
