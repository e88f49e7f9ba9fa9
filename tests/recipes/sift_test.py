"""Fine-tune on the examples that tell most about the images at hand.

Method: SIFT
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import selection
from tests.recipes import digits


def recipe(losses, params, optimizer, pool, queries):
    center = jnp.mean(pool["x"], axis=0)
    chosen = selection.sift_indices(pool["x"] - center, queries - center, 32)
    batch = jax.tree.map(lambda a: a[chosen.indices], pool)

    def step(carry, _):
        params, opt_state = carry
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=50)
    return params, chosen


def test_the_chosen_images_are_of_the_classes_of_the_queries_and_teach_them():
    test = digits.held_out()
    asked = np.isin(np.asarray(test["y"]), [3, 8])
    queries, labels = test["x"][asked], test["y"][asked]
    params, chosen = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), queries)
    assert np.mean(np.isin(np.asarray(digits.train()["y"])[np.asarray(chosen.indices)], [3, 8])) > 0.6  # of 0.2
    assert np.all(np.diff(np.asarray(chosen.variances)) <= 1e-5)
    assert np.mean(jnp.argmax(digits.logits(params, queries), axis=1) == labels) > 0.85
