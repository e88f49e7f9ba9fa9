"""Draw examples in proportion to a bound on their gradient norm, without bias.

Method: importance sampling by the gradient norm
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(logits_fn, losses, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    select = selection.keep_by_importance(16, key=1, threshold=0.0)

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        signals = {"logits": logits_fn(params, batch["x"]), "labels": batch["y"]}
        fn = value_and_grad(losses, select, gather=16)
        (_, aux), grads, state = fn(params, batch, state, **signals)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (signals, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_large_gradients_are_drawn_more_often_and_the_digits_are_learned():
    params, (signals, weights) = digits.run(
        recipe, digits.logits, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    bounds = jax.vmap(selection.gradient_norm_bound)(signals["logits"][75:], signals["labels"][75:])
    bounds, weights = np.asarray(bounds), np.asarray(weights)[75:]
    assert np.mean(bounds[weights > 0]) > 1.7 * np.mean(bounds)
    # no bias: the weighted mean of a score is that of the batch, on average
    np.testing.assert_allclose(np.mean(np.sum(weights * bounds, axis=1)), np.mean(bounds), rtol=0.05)
    assert digits.accuracy(params) > 0.95
