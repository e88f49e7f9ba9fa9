"""Train on a large batch in micro-batches, where rows without a weight lie unevenly among them.

Method: gradient accumulation with weights
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import accumulate, sampling
from tests.recipes import digits


def recipe(losses, params, optimizer, data, trusted, key):
    sampler = sampling.shuffled(len(trusted), 256)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        value, grads = accumulate(losses, trusted[rows.indices], 4)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), value

    start = params, optimizer.init(params), sampler.init(key)
    return jax.lax.scan(step, start, length=60)


def test_the_mean_is_that_of_the_trusted_rows():
    data, wrong = digits.noisy(0.4)
    trusted = jnp.asarray(~wrong, jnp.float32)
    run = digits.init(), digits.OPTIMIZER, data, trusted, digits.KEY(0)
    (params, *_), values = digits.run(recipe, digits.losses, *run)
    assert digits.accuracy(params) > 0.9
    np.testing.assert_allclose(values[0], np.mean(digits.losses(digits.init(), data)[~wrong]), rtol=0.1)
