"""Train a generator on data in which a class is rare, with masses that make up for it.

Method: exact optimal transport of unequal masses
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling, value_and_grad
from tests.recipes import digits


def recipe(draw, params, optimizer, images, masses, key):
    couple = coupling.couple_transport()

    def costs(params, batch):
        cost = coupling.costs.squared_euclidean_cost(draw(params, batch["codes"]), batch["x"])
        return cost, {"cost": cost}

    def step(carry, key):
        params, opt_state, state = carry
        rows = jax.random.choice(key, len(images), (32,))
        batch = {"codes": jax.random.normal(key, (32, 8)), "x": images[rows]}
        weights = coupling.independent_plan(jnp.full(32, 1 / 32), masses[rows])
        fn = value_and_grad(costs, couple, items="pair_losses", has_aux=True)
        (_, aux), grads, state = fn(params, batch, state, weights=weights)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state), (rows, aux.weights)

    start = params, optimizer.init(params), couple.init(jnp.zeros((32, 32)))
    (params, *_), seen = jax.lax.scan(step, start, jax.random.split(key, 100))
    return params, seen


def test_the_rare_class_is_drawn_as_often_as_its_masses_say():
    x, y = (np.asarray(digits.train()[name]) for name in ("x", "y"))
    rare, common = np.flatnonzero(y == 0)[:20], np.flatnonzero(y == 1)[:140]
    images = jnp.asarray(x[np.concatenate([rare, common])])
    masses = jnp.asarray([7.0] * 20 + [1.0] * 140)
    params, (rows, plans) = digits.run(
        recipe, digits.draw, digits.init_generator(), digits.OPTIMIZER, images, masses, digits.KEY(0)
    )
    b = masses[rows]
    np.testing.assert_allclose(np.sum(plans, axis=1), b / np.sum(b, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(np.sum(plans, axis=2), 1 / 32, rtol=1e-4)
    samples, means = np.asarray(digits.drawn(params)), [x[rare].mean(axis=0), x[common].mean(axis=0)]
    zeros = np.argmin([np.sum((samples - mean) ** 2, axis=1) for mean in means], axis=0) == 0
    assert 0.35 < np.mean(zeros) < 0.65  # an eighth of the images
