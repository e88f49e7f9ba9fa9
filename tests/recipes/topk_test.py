"""Train on the 32 smallest losses of 64: the trimmed loss.

Method: top-k losses (OHEM), trimmed loss
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key, keep):
    sampler, select = sampling.shuffled(len(data["y"]), 64), optax.chain(keep(32), normalize())

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        (_, aux), grads, state = value_and_grad(losses, select, gather=32)(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (rows.indices, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_the_smallest_losses_are_those_of_right_labels():
    data, wrong = digits.noisy(0.4)
    warm = digits.fit(digits.init(), data)  # from the start, the smallest losses would be those of a few classes
    params, (rows, weights) = digits.run(
        recipe, digits.losses, warm, digits.OPTIMIZER, data, digits.KEY(0), selection.keep_bottomk
    )
    kept = np.asarray(weights)[75:] > 0
    assert np.all(np.sum(kept, axis=1) == 32)
    assert np.mean(wrong[np.asarray(rows)[75:]][kept]) < 0.25  # of 0.4
    assert digits.accuracy(params) > 0.88


def test_the_largest_losses_are_those_of_wrong_labels_and_teach_clean_digits():
    run = digits.losses, digits.init(), digits.OPTIMIZER
    _, (rows, weights) = digits.run(recipe, *run, digits.noisy(0.4)[0], digits.KEY(0), selection.keep_topk)
    kept = np.asarray(weights)[30:] > 0
    assert np.mean(digits.noisy(0.4)[1][np.asarray(rows)[30:]][kept]) > 0.5
    params, _ = digits.run(recipe, *run, digits.train(), digits.KEY(0), selection.keep_topk)
    assert digits.accuracy(params) > 0.95
