"""Train a generator to match the images of each batch one to one.

Method: exact optimal transport (assignment)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling, value_and_grad
from tests.recipes import digits


def recipe(draw, params, optimizer, images, key):
    couple = coupling.couple_assignment()

    def costs(params, batch):
        cost = coupling.costs.squared_euclidean_cost(draw(params, batch["codes"]), batch["x"])
        return cost, {"cost": cost}

    def step(carry, key):
        params, opt_state, state = carry
        codes = jax.random.normal(key, (64, 8))
        batch = {"codes": codes, "x": jax.random.choice(key, images, (64,))}
        fn = value_and_grad(costs, couple, items="pair_losses", has_aux=True)
        (_, aux), grads, state = fn(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, state), aux.weights

    start = params, optimizer.init(params), couple.init(jnp.zeros((64, 64)))
    (params, *_), plans = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, plans


def test_the_generator_draws_digits():
    params, plans = digits.run(
        recipe, digits.draw, digits.init_generator(), digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    )
    plans = 64 * np.asarray(plans)
    assert np.all((np.abs(plans) < 1e-5) | (np.abs(plans - 1) < 1e-5))
    np.testing.assert_allclose(np.sum(plans, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.sum(plans, axis=2), 1, rtol=1e-5)
    assert digits.energy_distance(digits.drawn(params)) < 0.5
