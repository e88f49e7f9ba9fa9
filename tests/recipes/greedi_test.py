"""Choose 64 medoids of a large pool, part by part, and train on them.

Method: facility location in two stages (GreeDi)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import selection
from tests.recipes import digits


def recipe(losses, params, optimizer, data):
    chosen = selection.partitioned_medoids(data["x"], 64, num_parts=8)
    batch = jax.tree.map(lambda a: a[chosen], data)

    def step(carry, _):
        params, opt_state = carry
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=150)
    return params, chosen


def test_the_medoids_represent_the_pool_and_teach_the_digits():
    data = digits.train()
    params, chosen = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, data)
    x = np.asarray(data["x"])
    squared = np.sum((x[:, None] - x[np.asarray(chosen)][None]) ** 2, axis=-1)
    random = np.sum((x[:, None] - x[None, :64]) ** 2, axis=-1)
    assert len(set(chosen.tolist())) == 64
    assert squared.min(axis=1).mean() < 0.92 * random.min(axis=1).mean()
    assert digits.accuracy(params) > 0.85
