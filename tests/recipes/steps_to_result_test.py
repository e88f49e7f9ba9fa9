"""Search two settings of an optimizer at quasi-random points, and widen the space if the best one lies at its edge.

Method: steps to result by batch size
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import schedules
from tests.recipes import digits


def recipe(losses, params, data, held_out, key):
    points = schedules.halton_points(12, 2) * jnp.array([[8.0, 6.0]]) + jnp.array([[-8.0, -6.0]])

    def curve(point):
        optimizer = optax.sgd(2.0 ** point[0], momentum=1 - 2.0 ** point[1])

        def step(carry, key):
            params, opt_state = carry
            rows = jax.random.randint(key, (64,), 0, len(data["y"]))
            batch = jax.tree.map(lambda a: a[rows], data)
            grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
            updates, opt_state = optimizer.update(grads, opt_state)
            params = optax.apply_updates(params, updates)
            return (params, opt_state), jnp.mean(losses(params, held_out))

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 150))[1]

    curves, at = jax.vmap(curve)(points), jnp.arange(1, 151)
    steps = jax.vmap(lambda values: schedules.steps_to_result(at, values, 0.35))(curves)
    best, fewest = schedules.best_over_trials(steps)
    edge = schedules.edge_of_search_space(points[best], jnp.array([-8.0, -6.0]), 0.0)
    return curves, steps, fewest, edge


def test_the_best_of_twelve_trials_is_found():
    curves, steps, fewest, edge = digits.run(
        recipe, digits.losses, digits.init(), digits.train(), digits.held_out(), digits.KEY(0)
    )
    hits = np.where((curves <= 0.35).any(axis=1), np.argmax(curves <= 0.35, axis=1) + 1, np.inf)
    np.testing.assert_array_equal(steps, hits)
    assert fewest == hits.min() < 0.5 * np.median(hits)
    assert edge[0] <= 0  # a rate of 1 is not the best one
