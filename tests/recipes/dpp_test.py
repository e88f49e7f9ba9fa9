"""Train on diverse examples: 10 of 64 drawn from a k-DPP of the images.

Method: k-DPP, greedy MAP
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    select = optax.chain(selection.keep_diverse(10, key=1), normalize())

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        fn = value_and_grad(losses, select, gather=10)
        (_, aux), grads, state = fn(params, batch, state, features=batch["x"])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (rows.indices, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=100)
    return params, seen


def test_a_draw_holds_more_classes_than_a_random_one_and_the_digits_are_learned():
    params, (rows, weights) = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    labels, kept = np.asarray(digits.train()["y"])[np.asarray(rows)], np.asarray(weights) > 0
    classes = [len(set(row[mask])) for row, mask in zip(labels, kept, strict=True)]
    random = [len(set(row[:10])) for row in labels]
    assert np.mean(classes) > np.mean(random) + 0.4
    assert digits.accuracy(params) > 0.9
