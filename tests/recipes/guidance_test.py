"""Train on rows with wrong labels, weighed by a network that learns from a few trusted rows which losses to trust.

Method: weights learned from guiding examples (GORL)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling, scores, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, trusted, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    select = selection.reweigh_by_guidance(1, key=1, floor=0.01)
    fn = value_and_grad(losses, select)

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        direction = jax.grad(lambda p: jnp.mean(losses(p, trusted)))(params)
        signals = {
            "alignments": scores.alignment(losses, params, batch, direction),
            "features": jnp.log(losses(params, batch) + 1e-3)[:, None],
        }
        (_, aux), grads, state = fn(params, batch, state, **signals)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (rows.indices, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_wrong_labels_weigh_less_after_a_while():
    data, wrong = digits.noisy(0.4)
    data, trusted = jax.tree.map(lambda a: a[:1408], data), jax.tree.map(lambda a: a[1408:], digits.train())
    arguments = digits.losses, digits.init(), digits.OPTIMIZER
    _, (rows, weights) = digits.run(recipe, *arguments, data, trusted, digits.KEY(0))
    mass = np.sum(np.asarray(weights) * wrong[np.asarray(rows)], axis=1)
    assert np.mean(mass[:5]) > 0.3 and np.mean(mass[-50:]) < 0.3  # of 0.4
