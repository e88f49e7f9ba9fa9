"""Decide between data sets from short runs of them, and say how often that is right for long runs.

Method: Decisions from small runs (DataDecide)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mixing
from tests.recipes import digits


def recipe(losses, params, optimizer, data_sets, held_out, key):
    def step(carry, key, data):
        batch = jax.tree.map(lambda a: jax.random.choice(key, a, (64,)), data)
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(carry[0])
        updates, opt_state = optimizer.update(grads, carry[1])
        params = optax.apply_updates(carry[0], updates)
        return (params, opt_state), jnp.mean(losses(params, held_out))

    def run(data, key):
        start, keys = (params, optimizer.init(params)), jax.random.split(key, 150)
        return jax.lax.scan(lambda carry, key: step(carry, key, data), start, keys)[1]

    keys = jax.random.split(key, 5)
    curves = jax.vmap(lambda data: jax.lax.map(lambda key: run(data, key), keys))(data_sets)
    short, target, lengths = curves[:, :2, :30], curves[:, 2:, -1], jnp.arange(1.0, 31.0)

    def law(curve):
        return mixing.predict_loss(mixing.fit_loss_law(lengths, curve), 150.0)

    by_law = mixing.decision_accuracy(jax.vmap(law)(jnp.mean(short, axis=1)), target)
    spread = mixing.decision_accuracy_draws(key, short[:, :, -1], target, 200)
    return mixing.decision_accuracy(short[:, :, -1], target), by_law, spread, target


def test_short_runs_tell_which_labels_are_worse():
    data_sets = jax.tree.map(lambda *a: jnp.stack(a)[:, :512], *(digits.noisy(f)[0] for f in (0, 0.1, 0.2, 0.4, 0.8)))
    held_out = digits.first(digits.held_out(), 128)
    by_length, by_law, draws, target = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, data_sets, held_out, digits.KEY(0)
    )
    assert np.all(np.diff(target.mean(axis=1)) > 0)
    assert by_length >= 0.8 and by_law >= 0.6
    assert abs(np.nanmean(draws) - by_length) < 0.05
