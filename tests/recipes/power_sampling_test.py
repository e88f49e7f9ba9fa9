"""Train on the examples of which a surrogate is unsure, chosen before their labels are known.

Method: power sampling
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, teacher_logits, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    select = optax.chain(selection.keep_by_power(fraction=0.3, alpha=1.0, key=1), normalize())

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        signals = {"teacher_logits": teacher_logits[rows.indices]}
        (_, aux), grads, state = value_and_grad(losses, select)(params, batch, state, **signals)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (rows.indices, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_uncertain_examples_are_kept_more_often_and_the_digits_are_learned():
    # the surrogate: the nearest class mean of 128 images that are held out
    few, labels = (np.asarray(digits.held_out()[name])[:128] for name in ("x", "y"))
    means = np.stack([few[labels == c].mean(axis=0) for c in range(10)])
    x = np.asarray(digits.train()["x"])
    scores = 2 * x @ means.T - np.sum(means**2, axis=1)
    params, (rows, weights) = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), jnp.asarray(scores), digits.KEY(0)
    )
    probabilities = np.exp(scores) / np.sum(np.exp(scores), axis=1, keepdims=True)
    uncertainty = (1 - np.sum(probabilities**2, axis=1))[np.asarray(rows)]
    kept = np.asarray(weights) > 0
    assert abs(np.mean(kept) - 0.3) < 0.02
    assert np.mean(uncertainty[kept]) > 1.2 * np.mean(uncertainty)
    assert digits.accuracy(params) > 0.88
