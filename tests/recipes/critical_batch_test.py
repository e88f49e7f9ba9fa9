"""Measure the steps to a goal for a few batch sizes, fit them, and read off the critical batch size.

Method: critical batch size
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import schedules
from tests.recipes import digits

SIZES = (4, 16, 64)


def recipe(losses, params, data, held_out, key):
    def losses_at(size, rate):
        def step(params, key):
            rows = jax.random.randint(key, (size,), 0, len(data["y"]))
            batch = jax.tree.map(lambda a: a[rows], data)
            grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
            params = optax.apply_updates(params, jax.tree.map(lambda g: -rate * g, grads))
            return params, jnp.mean(losses(params, held_out))

        return jax.lax.scan(step, params, jax.random.split(key, 200))[1]

    def steps_at(size):
        curves = jax.vmap(lambda rate: losses_at(size, rate))(2.0 ** jnp.arange(-3, 1))
        at = jnp.arange(1, 201)
        reached = [schedules.steps_to_result(at, curve, 0.45, consecutive=3) for curve in curves]
        return schedules.best_over_trials(jnp.stack(reached))[1]

    steps = jnp.stack([steps_at(size) for size in SIZES])
    fit = schedules.fit_critical_batch(jnp.array(SIZES), steps)
    critical = schedules.critical_batch_size(fit.a, fit.b, SIZES[0])
    return steps, fit, critical, schedules.scaling_regimes(SIZES, steps)


def test_a_larger_batch_needs_fewer_steps_and_more_examples():
    steps, fit, critical, regimes = digits.run(
        recipe, digits.losses, digits.init(), digits.train(), digits.held_out(), digits.KEY(0)
    )
    assert np.isfinite(steps).all() and steps[0] > 1.3 * steps[1] and np.all(np.diff(steps * SIZES) > 0)
    assert fit.determined and SIZES[0] < critical < SIZES[-1]
    assert regimes.perfect_until < SIZES[-1]
