"""Keep the learning rate inside the buffer of the momentum, as LARS does, and change it without an echo of old rates.

Method: momentum correction
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import schedules
from tests.recipes import digits


def recipe(losses, params, data, key, average):
    rate = optax.piecewise_constant_schedule(0.2, {40: 0.01})
    optimizer = optax.chain(optax.scale_by_learning_rate(rate), average(rate))

    def step(carry, key):
        params, opt_state = carry
        batch = jax.tree.map(lambda a: a[jax.random.choice(key, len(a), (64,))], data)
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), optax.tree.norm(updates)

    return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, 60))[1]


def test_the_step_after_a_fall_of_the_rate_is_small_at_once():
    run = digits.losses, digits.init(), digits.train(), digits.KEY(0)
    corrected = digits.run(recipe, *run, lambda rate: schedules.momentum_correction(rate, 0.9))
    plain = digits.run(recipe, *run, lambda rate: optax.trace(0.9))
    np.testing.assert_allclose(corrected[:40], plain[:40], rtol=1e-2)
    assert corrected[40] < 0.03 * corrected[39]
    assert plain[40] > 0.8 * plain[39]
