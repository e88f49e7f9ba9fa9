"""Let the learning rate follow the tokens seen, while the batch grows.

Method: power schedule, schedules of tokens
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import schedules
from tests.recipes import digits


def recipe(losses, params, data, key):
    seen = schedules.tokens_of_stages([32 * 64, 64 * 64], [75])
    size = optax.piecewise_constant_schedule(32, {75: 2})
    power = schedules.power_schedule(a=0.05, batch_size=size, sequence_length=64, tokens_fn=seen)
    rate = schedules.decay_from(power, 135, 15)
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=rate)

    def step(carry, key):
        params, opt_state = carry
        batch = jax.tree.map(lambda a: a[jax.random.choice(key, 1536, (64,))], data)
        kept = jnp.arange(64) < size(opt_state.count)
        grads = jax.grad(lambda p: jnp.sum(kept * losses(p, batch)) / jnp.sum(kept))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        rate = opt_state.hyperparams["learning_rate"]
        return (optax.apply_updates(params, updates), opt_state), rate

    start = params, optimizer.init(params)
    (params, _), rates = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, rates


def test_rates_are_those_of_the_tokens_and_the_digits_are_learned():
    params, rates = digits.run(recipe, digits.losses, digits.init(), digits.train(), digits.KEY(0))
    steps = np.arange(135)
    batch = np.where(steps < 75, 32, 64)
    seen = np.maximum(np.cumsum(batch * 64) - batch * 64, batch * 64)
    np.testing.assert_allclose(rates[:135], np.minimum(0.02, batch * 0.05 * seen**-0.51), rtol=1e-4)
    assert rates[149] == 0
    assert digits.accuracy(params) > 0.95
