"""Train on every row once in an epoch.

Method: epochs without replacement
"""

import jax
import numpy as np
import optax

from minibatch_jax import sampling
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)

    def mean_loss(params, rows):
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        return losses(params, batch) @ rows.weights

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        grads = jax.grad(mean_loss)(params, rows)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), rows.indices

    start = params, optimizer.init(params), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_every_row_comes_once_in_an_epoch_and_the_digits_are_learned():
    params, seen = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0))
    rows = len(digits.train()["y"])
    epochs = np.asarray(seen).reshape(-1)[: 6 * rows].reshape(6, rows)
    assert all(np.array_equal(np.sort(epoch), np.arange(rows)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert digits.accuracy(params) > 0.95
