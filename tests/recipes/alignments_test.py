"""Train on rows with wrong labels, weighed by the gradient of a few rows whose labels are trusted.

Method: alignment with a direction
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling, scores, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, trusted, key):
    sampler, select = sampling.shuffled(len(data["y"]), 64), selection.reweigh_by_alignment()
    fn = value_and_grad(losses, select)

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        direction = jax.grad(lambda p: jnp.mean(losses(p, trusted)))(params)
        aligned = scores.alignment(losses, params, batch, direction)
        (_, aux), grads, state = fn(params, batch, state, alignments=aligned)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (rows.indices, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_wrong_labels_weigh_little():
    data, wrong = digits.noisy(0.4)
    data, trusted = jax.tree.map(lambda a: a[:1408], data), jax.tree.map(lambda a: a[1408:], digits.train())
    arguments = digits.losses, digits.init(), digits.OPTIMIZER
    params, (rows, weights) = digits.run(recipe, *arguments, data, trusted, digits.KEY(0))
    mass = np.sum(np.asarray(weights) * wrong[np.asarray(rows)], axis=1)
    assert np.mean(mass) < 0.25  # of 0.4
    assert digits.accuracy(params) > max(0.88, digits.accuracy(digits.fit(digits.init(), data, 150)) + 0.01)
