"""Train a generator on data with outliers, whose mass is given up because it would be dear to move.

Method: unbalanced transport
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling, normalize, value_and_grad
from tests.recipes import digits


def recipe(draw, params, optimizer, images, key):
    couple = optax.chain(coupling.couple_unbalanced(epsilon=0.5, rho=4.0), normalize())

    def costs(params, batch):
        cost = coupling.costs.squared_euclidean_cost(draw(params, batch["codes"]), batch["x"])
        return cost, {"cost": cost}

    def step(carry, key):
        params, opt_state, state = carry
        rows = jax.random.choice(key, len(images), (64,))
        batch = {"codes": jax.random.normal(key, (64, 8)), "x": images[rows]}
        fn = value_and_grad(costs, couple, items="pair_losses", has_aux=True)
        (_, aux), grads, state = fn(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, state), (rows, aux.weights)

    start = params, optimizer.init(params), couple.init(jnp.zeros((64, 64)))
    (params, *_), seen = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, seen


def test_outliers_get_little_mass_and_the_generator_draws_digits():
    images = np.array(digits.train()["x"])
    outliers = np.random.default_rng(0).random(len(images)) < 0.2
    images[outliers] = np.random.default_rng(1).normal(size=(np.sum(outliers), 64))
    params, (rows, plans) = digits.run(
        recipe, digits.draw, digits.init_generator(), digits.OPTIMIZER, jnp.asarray(images), digits.KEY(0)
    )
    mass = np.sum(plans, axis=1)
    assert np.sum(mass[outliers[np.asarray(rows)]]) < 0.02 * np.sum(mass)  # of 0.2
    assert digits.energy_distance(digits.drawn(params)) < 0.6
