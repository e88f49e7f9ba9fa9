"""Train on examples whose loss is below a threshold that follows training: wrong labels are left out.

Method: Adaptive-k, fixed threshold
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    select = optax.chain(selection.keep_by_adaptive_k("mean", warmup_steps=50), normalize())

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        (_, aux), grads, state = value_and_grad(losses, select)(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (rows.indices, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_wrong_labels_are_left_out():
    data, wrong = digits.noisy(0.4)
    params, (rows, weights) = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, data, digits.KEY(0))
    kept = np.asarray(weights)[75:] > 0
    assert np.mean(wrong[np.asarray(rows)[75:]][kept]) < 0.15  # of 0.4
    assert np.mean(kept) > 0.4
    assert digits.accuracy(params) > 0.88
