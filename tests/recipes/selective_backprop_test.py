"""Train on each example with a probability that grows with the rank of its loss.

Method: Selective-Backprop
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import normalize, sampling, selection, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    select = optax.chain(selection.keep_by_loss_rank(power=2.0, key=1), normalize())

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        (_, aux), grads, state = value_and_grad(losses, select)(params, batch, state)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (aux.items, aux.weights)

    start = params, optimizer.init(params), select.init(jnp.zeros(64)), sampler.init(key)
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_a_third_is_kept_mostly_large_losses_and_the_digits_are_learned():
    params, (losses, weights) = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    losses, kept = np.asarray(losses)[75:], np.asarray(weights)[75:] > 0
    assert 0.15 < np.mean(kept) < 0.4  # a third while the losses keep their distribution, less while they fall
    assert np.mean(losses[kept]) > 1.4 * np.mean(losses)
    assert digits.accuracy(params) > 0.95
