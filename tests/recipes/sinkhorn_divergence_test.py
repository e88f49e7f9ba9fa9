"""Train a generator on the Sinkhorn divergence, which does not shrink its samples as the entropic cost does.

Method: Sinkhorn divergence
"""

import jax
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(draw, params, optimizer, images, key):
    def loss(params, codes, x):
        return coupling.sinkhorn_divergence(draw(params, codes), x, epsilon=1.0, tolerance=1e-3)

    def step(carry, key):
        params, opt_state = carry
        codes, x = jax.random.normal(key, (64, 8)), jax.random.choice(key, images, (64,))
        value, grads = jax.value_and_grad(loss)(params, codes, x)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), value

    start = params, optimizer.init(params)
    (params, _), values = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, values


def test_the_generator_draws_digits_that_vary_as_much_as_the_images():
    params, values = digits.run(
        recipe, digits.draw, digits.init_generator(), digits.OPTIMIZER, digits.train()["x"], digits.KEY(0)
    )
    assert np.mean(values[-20:]) < 0.5 * values[0]
    samples, images = np.asarray(digits.drawn(params)), np.asarray(digits.held_out()["x"])
    assert np.sum(np.var(samples, axis=0)) > 0.4 * np.sum(np.var(images, axis=0))
    assert digits.energy_distance(samples) < 0.5
