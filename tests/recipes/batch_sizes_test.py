"""Begin with small batches and let them grow by a list in examples, in one compiled program.

Method: batch-size warm-up
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import schedules, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    size = schedules.batch_size_schedule(*schedules.batch_stages("0:16 0.8K:32 2.4K:64"))
    keep = schedules.keep_scheduled(size)

    def step(carry, key):
        params, opt_state, state = carry
        batch = jax.tree.map(lambda a: a[jax.random.choice(key, len(a), (64,))], data)
        (_, aux), grads, state = value_and_grad(losses, keep)(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, state), aux.weights

    start = params, optimizer.init(params), keep.init(jnp.zeros(64))
    (params, *_), weights = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, weights


def test_batches_grow_by_the_list_and_the_digits_are_learned():
    params, weights = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0))
    np.testing.assert_array_equal(np.sum(weights > 0, axis=1), [16] * 50 + [32] * 50 + [64] * 50)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=1e-5)
    assert digits.accuracy(params) > 0.95
