"""Train on the examples that a model can still learn: those a reference, trained on held-out data, finds easier.

Method: RHO-LOSS
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, holdout, key):
    def train(params, data, select, reference):
        sampler = sampling.shuffled(len(data["y"]), 64)
        fn = value_and_grad(losses, select)

        def step(carry, _):
            params, opt_state, state, place = carry
            rows, place = sampler.sample(place)
            batch = jax.tree.map(lambda a: a[rows.indices], data)
            irreducible = losses(reference, batch)
            (_, aux), grads, state = fn(params, batch, state, reference_losses=irreducible)
            updates, opt_state = optimizer.update(grads, opt_state)
            params = optax.apply_updates(params, updates)
            return (params, opt_state, state, place), (rows.indices, aux.weights)

        start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
        return jax.lax.scan(step, start, length=150)

    (reference, *_), _ = train(params, holdout, normalize(), params)
    select = optax.chain(selection.keep_by_reducible_loss(16), normalize())
    return train(params, data, select, reference)


def test_wrong_labels_are_left_out():
    data, wrong = digits.noisy(0.4)
    data, wrong = jax.tree.map(lambda a: a[:1152], data), wrong[:1152]
    holdout = jax.tree.map(lambda a: a[1152:], digits.train())  # with right labels
    (params, *_), (rows, weights) = recipe(digits.losses, digits.init(), digits.OPTIMIZER, data, holdout, digits.KEY(0))
    kept = np.asarray(weights) > 0
    assert (kept.sum(axis=1) == 16).all()
    assert np.mean(wrong[np.asarray(rows)][kept]) < 0.1  # of 0.4
    assert digits.accuracy(params) > max(0.9, digits.accuracy(digits.fit(digits.init(), data, 150)) + 0.03)
