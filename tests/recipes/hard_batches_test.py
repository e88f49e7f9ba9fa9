"""Revisit the batches whose last loss is large, in rounds.

Method: hard mini-batches
"""

import jax
import numpy as np
import optax

from minibatch_jax import sampling
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.hard_batches(len(data["y"]), 64, fraction=0.5)

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
        params = optax.apply_updates(params, updates)
        return (params, opt_state, places), (rows.indices, found)

    start = params, optimizer.init(params), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_the_hard_half_of_the_batches_is_revisited_and_the_digits_are_learned():
    params, (rows, losses) = recipe(digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0))
    batches, means = np.asarray(rows)[:, 0] // 64, np.asarray(losses).mean(1)
    last, ahead = {}, list(range(24))
    for batch, mean in zip(batches.tolist(), means):
        assert batch == ahead.pop(0)
        last[batch] = mean
        ahead = ahead or sorted(sorted(last, key=last.get, reverse=True)[:12])
    assert digits.accuracy(params) > 0.95
