"""Choose the examples of a pool that move it most towards a target, and train on them.

Method: GOT-D
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import coupling, selection
from tests.recipes import digits


def recipe(losses, params, optimizer, pool, target):
    cost = coupling.costs.squared_euclidean_cost(pool["x"], target)
    chosen = selection.topk_mask(-selection.transport_scores(cost, epsilon=0.05), 64)
    batch = jax.tree.map(lambda a: a[jnp.nonzero(chosen, size=64)[0]], pool)

    def step(carry, _):
        params, opt_state = carry
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=50)
    return params, chosen


def test_the_chosen_images_are_of_the_classes_of_the_target_and_teach_them():
    test = digits.held_out()
    asked = np.isin(np.asarray(test["y"]), [1, 4, 7])
    target, labels, pool = test["x"][asked], test["y"][asked], digits.first(digits.train(), 512)
    params, chosen = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, pool, target)
    assert np.mean(np.isin(np.asarray(pool["y"])[np.asarray(chosen)], [1, 4, 7])) > 0.9  # of 0.3
    assert np.mean(jnp.argmax(digits.logits(params, target), axis=1) == labels) > 0.85
