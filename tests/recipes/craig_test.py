"""Train on 16 weighted medoids of the last-layer gradients of 64 examples.

Method: facility location, CRAIG
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(logits_fn, losses, params, optimizer, data, key):
    sampler, select = sampling.shuffled(len(data["y"]), 64), selection.keep_medoids(16)

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        slopes = jax.nn.softmax(logits_fn(params, batch["x"])) - jax.nn.one_hot(batch["y"], 10)
        fn = value_and_grad(losses, select, gather=16)
        (_, aux), grads, state = fn(params, batch, state, features=slopes)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (slopes, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_the_weighted_gradient_is_near_that_of_the_batch_and_the_digits_are_learned():
    params, (slopes, weights) = digits.run(
        recipe, digits.logits, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    slopes, weights = np.asarray(slopes), np.asarray(weights)
    whole, kept = slopes.mean(axis=1), np.einsum("tb,tbc->tc", weights, slopes)
    random = slopes[:, :16].mean(axis=1)
    assert np.linalg.norm(kept - whole, axis=1).mean() < 0.5 * np.linalg.norm(random - whole, axis=1).mean()
    assert digits.accuracy(params) > 0.95
