"""Draw rows in proportion to their last loss, and weigh them against the bias.

Method: data-set weights fed back from losses
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.weighted(64, decay=0.5)

    def mean_loss(params, batch, weights):
        found = losses(params, batch)
        return found @ weights, found

    def step(carry, _):
        params, opt_state, places = carry
        rows, places = sampler.sample(places)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads, found = jax.grad(mean_loss, has_aux=True)(params, batch, rows.weights)
        places = sampler.update(places, rows, losses=found)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, places), rows.indices

    start = params, optimizer.init(params), sampler.init(key, weights=jnp.full(len(data["y"]), 3.0))
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_hard_rows_come_more_often_and_the_digits_are_learned():
    params, seen = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0))
    counts = np.bincount(np.asarray(seen).reshape(-1), minlength=1536)
    losses = np.asarray(digits.losses(digits.fit(digits.init(), digits.train(), 150), digits.train()))
    hard = losses >= np.quantile(losses, 0.9)
    assert np.mean(counts[hard]) > 1.3 * np.mean(counts[~hard])
    assert digits.accuracy(params) > 0.95
