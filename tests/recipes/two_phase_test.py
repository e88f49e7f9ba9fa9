"""Spend scarce classes in the last part of a run, where the learning rate decays.

Method: two-phase and staged mixtures
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mixing, sampling
from tests.recipes import digits


def recipe(losses, params, data, key, first, second):
    plan = mixing.two_phase(150, first, second, peak=5e-3, switch=0.6, decay=0.8)
    sampler, optimizer = sampling.mixture(10, 64, plan.mixture), optax.adam(plan.learning_rate)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), batch["y"]

    start = params, optimizer.init(params), sampler.init(key, domains=data["y"])
    (params, *_), labels = jax.lax.scan(step, start, length=150)
    return params, labels


def test_the_last_classes_come_in_the_second_phase_alone_and_are_learned():
    first = jnp.where(jnp.arange(10) < 8, 1 / 8, 0.0)
    second = jnp.where(jnp.arange(10) < 8, 1 / 16, 1 / 4)
    arguments = digits.losses, digits.init(), digits.train(), digits.KEY(0)
    params, labels = digits.run(recipe, *arguments, first, second)
    assert labels[:90].max() == 7
    np.testing.assert_allclose(np.bincount(labels[90:].reshape(-1)) / (60 * 64), second, atol=0.005)
    assert digits.accuracy(params) > 0.88  # 0.8 without the two classes


def test_a_chain_goes_on_from_the_mixture_of_the_step():
    moves = mixing.two_phase_mixture(jnp.array([0.8, 0.2]), jnp.array([0.5, 0.5]), switch=1)
    mix = optax.chain(mixing.mix_by_schedule(moves), mixing.mix_by_temperature(2.0))
    weights = jnp.array([0.1, 0.9])
    first, state = mix.update(weights, mix.init(weights))
    np.testing.assert_allclose(first, [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(mix.update(weights, state)[0], [0.5, 0.5], rtol=1e-6)
