"""Train a generator on data with outliers: two thirds of the mass move, the outliers are left out.

Method: m-POT (partial transport)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling, value_and_grad
from tests.recipes import digits


def recipe(draw, params, optimizer, images, key):
    couple = coupling.couple_partial(2 / 3)

    def costs(params, batch):
        cost = coupling.costs.squared_euclidean_cost(draw(params, batch["codes"]), batch["x"])
        return cost, {"cost": cost}

    def step(carry, key):
        params, opt_state, state = carry
        rows = jax.random.choice(key, len(images), (48,))
        batch = {"codes": jax.random.normal(key, (48, 8)), "x": images[rows]}
        fn = value_and_grad(costs, couple, items="pair_losses", has_aux=True)
        (_, aux), grads, state = fn(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, state), (rows, aux.weights)

    start = params, optimizer.init(params), couple.init(jnp.zeros((48, 48)))
    (params, *_), seen = jax.lax.scan(step, start, jax.random.split(key, 100))
    return params, seen


def test_outliers_get_no_mass_and_the_generator_draws_digits():
    images = np.array(digits.train()["x"])
    outliers = np.random.default_rng(0).random(len(images)) < 0.2
    images[outliers] = np.random.default_rng(1).normal(size=(np.sum(outliers), 64))
    params, (rows, plans) = digits.run(
        recipe, digits.draw, digits.init_generator(), digits.OPTIMIZER, jnp.asarray(images), digits.KEY(0)
    )
    np.testing.assert_allclose(np.sum(plans, axis=(1, 2)), 2 / 3, rtol=1e-4)
    mass = np.sum(plans, axis=1)
    assert np.sum(mass[outliers[np.asarray(rows)]]) < 0.01 * np.sum(mass)
    assert digits.energy_distance(digits.drawn(params)) < 0.6
