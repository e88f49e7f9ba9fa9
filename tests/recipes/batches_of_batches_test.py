"""Carry labels to another domain over mini-batches of one class each, of which each has one right partner.

Method: BoMb-OT
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling
from tests.recipes import digits


def recipe(losses, params, optimizer, source, target, source_rows, target_rows):
    cost = coupling.costs.squared_euclidean_cost(source["x"], target)
    blocks = cost[source_rows[:, None, :, None], target_rows[None, :, None, :]]
    couple = coupling.couple_assignment()
    found = coupling.hierarchical_plan(blocks, couple, couple)
    plan = coupling.scatter_plans(found.plans, source_rows, target_rows, cost.shape)
    batch = {"x": target, "y": source["y"][jnp.argmax(plan, axis=0)]}

    def step(carry, _):
        params, opt_state = carry
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=100)
    return params, found


def test_batches_of_one_class_find_each_other_and_the_labels_are_learned():
    x, y = (np.asarray(digits.train()[name]) for name in ("x", "y"))
    classes = np.stack([np.flatnonzero(y == c)[:16] for c in range(10)])
    source_rows = np.arange(80).reshape(10, 8)
    target_rows = np.random.default_rng(0).permutation(10)[:, None] * 8 + np.arange(8)[None]
    source = {"x": jnp.asarray(x[classes[:, :8].reshape(-1)]), "y": jnp.repeat(jnp.arange(10), 8)}
    target = jnp.asarray(0.3 + 0.7 * x[classes[:, 8:].reshape(-1)])  # a foggy domain without labels
    params, found = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, source, target, source_rows, jnp.asarray(target_rows)
    )
    partners = target_rows[np.argmax(found.outer, axis=1), 0] // 8
    assert np.mean(partners == np.arange(10)) > 0.9
    assert found.value < 0.8 * np.mean(found.costs)  # which is m-OT, over all pairs of mini-batches
    test = digits.held_out()
    predicted = np.argmax(digits.logits(params, 0.3 + 0.7 * test["x"]), axis=1)
    assert np.mean(predicted == test["y"]) > 0.75
