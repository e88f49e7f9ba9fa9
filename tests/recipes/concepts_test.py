"""Train on a super-batch's examples whose concepts are balanced, from data in which some are rare.

Method: CABS-DM, CABS-FM
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, concepts, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    select = optax.chain(selection.keep_by_concept_balance(16, num_concepts=12), normalize())

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        fn = value_and_grad(losses, select, gather=16)
        (_, aux), grads, state = fn(params, batch, state, concepts=concepts[rows.indices])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (rows.indices, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_rare_classes_are_kept_and_learned():
    data, labels = digits.train(), np.asarray(digits.train()["y"])
    kept_rows = np.flatnonzero((labels < 5) | (np.arange(len(labels)) % 8 == 0))[:768]
    data = jax.tree.map(lambda a: a[kept_rows], data)
    labels, ink = labels[kept_rows], np.asarray(data["x"]).mean(axis=1)
    concepts = jnp.asarray(np.stack([labels, np.where(ink > np.median(ink), 10, 11)], axis=1))  # a digit, thick or thin
    params, (rows, weights) = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, data, concepts, digits.KEY(0)
    )
    seen = labels[np.asarray(rows)]
    assert np.mean(seen >= 5) < 0.15  # a seventh is rare ...
    assert np.mean(seen[np.asarray(weights) > 0] >= 5) > 0.22  # ... but more of what is kept
    assert digits.accuracy(params) > 0.87
