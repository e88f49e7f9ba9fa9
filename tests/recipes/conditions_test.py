"""Train a flow with a condition on pairs that do not tie the noise to the condition.

Method: condition-aware coupling (C2OT)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(velocity, params, optimizer, images, conditions, key):
    def loss(params, path, condition):
        return jnp.mean((velocity(params, path.xt, path.t, condition) - path.ut) ** 2)

    def step(carry, key):
        params, opt_state = carry
        keys = jax.random.split(key, 4)
        rows = jax.random.choice(keys[0], len(images), (64,))
        x0, x1, c = jax.random.normal(keys[1], (64, 64)), images[rows], conditions[rows]
        cost = coupling.condition_aware_cost(
            coupling.costs.squared_euclidean_cost(x0, x1), (c[:, None] - c[None]) ** 2, fraction=0.1
        )
        plan = coupling.assignment_plan(cost, jnp.ones((64, 64)))
        pairs = coupling.flow_matching_pairs(keys[2], x0, x1, plan)
        path = coupling.conditional_path(keys[3], pairs.x0, pairs.x1)
        updates, opt_state = optimizer.update(jax.grad(loss)(params, path, c), opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), (path.ut, c, c[pairs.source])

    start = params, optimizer.init(params)
    (params, _), seen = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, seen


def test_pairs_are_close_in_place_and_condition_and_the_flow_heeds_the_condition():
    images = digits.train()["x"]
    ink = jnp.asarray(10 * np.asarray(images).mean(axis=1), jnp.float32)  # from 1.9 to 4.6
    params, (ut, targets, sources) = digits.run(
        recipe, digits.velocity, digits.init_velocity(scalars=2), digits.OPTIMIZER, images, ink, digits.KEY(0)
    )
    assert np.mean(np.sum(ut**2, axis=-1)) < 0.98 * digits.random_cost()
    assert np.mean((targets - sources) ** 2) < 0.5 * 2 * np.var(ink)
    low, high = (np.mean(digits.generate(params, digits.noise(), jnp.full(256, c))) for c in (2.5, 3.8))
    assert low < 0.29 and high > 0.34
    samples = digits.generate(params, digits.noise(), ink[:256])
    assert digits.energy_distance(samples) < 0.4
