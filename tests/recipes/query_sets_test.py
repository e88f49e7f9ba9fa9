"""Label the images nearest to three unlabeled target sets, which take turns, and train on them.

Method: nearest rows of several query sets in turn
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import selection
from tests.recipes import digits


def recipe(losses, params, optimizer, pool, queries):
    chosen = selection.nearest_in_turn(pool["x"], queries, 96).indices
    batch = jax.tree.map(lambda a: a[chosen], pool)

    def step(carry, _):
        params, opt_state = carry
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=50)
    return params, chosen


def test_each_set_gets_its_class_and_the_model_learns_all_three():
    test = digits.held_out()
    images, labels = np.asarray(test["x"]), np.asarray(test["y"])
    queries = np.stack([images[labels == digit][:8] for digit in (1, 4, 7)])
    params, chosen = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), queries)
    counts = np.bincount(np.asarray(digits.train()["y"])[chosen], minlength=10)
    assert all(counts[digit] >= 29 for digit in (1, 4, 7))
    asked = np.isin(labels, [1, 4, 7])
    assert np.mean(np.argmax(digits.logits(params, images[asked]), axis=1) == labels[asked]) > 0.9
