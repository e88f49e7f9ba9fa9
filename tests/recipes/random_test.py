"""Train on 16 random examples of 64: the baseline of every selection.

Method: random subset, the uninformed baseline
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    select = optax.chain(selection.keep_random(16, key=1), normalize())

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        (_, aux), grads, state = value_and_grad(losses, select, gather=16)(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), aux.weights

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), weights = jax.lax.scan(step, start, length=150)
    return params, weights


def test_every_place_of_a_batch_is_kept_equally_often_and_the_digits_are_learned():
    params, weights = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0))
    kept = np.asarray(weights) > 0
    assert np.all(np.sum(kept, axis=1) == 16)
    np.testing.assert_allclose(np.asarray(weights)[kept], 1 / 16, rtol=1e-6)
    assert np.abs(np.mean(kept, axis=0) - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / 150)
    assert digits.accuracy(params) > 0.9
