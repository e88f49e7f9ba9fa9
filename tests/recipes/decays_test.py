"""Train at a stable rate, keep a checkpoint, and branch a decay off it.

Method: warm-up, stable, decay (WSD), and branches
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import schedules
from tests.recipes import digits


def recipe(losses, params, data, key):
    stable = schedules.warmup_stable_decay(0.04, warmup_steps=10, stable_steps=120, decay_steps=0)
    decay = schedules.decay_from(stable, 120, decay_steps=30)

    def steps(schedule, carry, keys):
        def step(carry, key):
            params, opt_state = carry
            batch = jax.tree.map(lambda a: a[jax.random.choice(key, 1536, (64,))], data)
            grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
            updates, opt_state = optax.adam(schedule).update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, carry, keys)[0]

    keys = jax.random.split(key, 150)
    checkpoint = steps(stable, (params, optax.adam(stable).init(params)), keys[:120])
    return [steps(schedule, checkpoint, keys[120:])[0] for schedule in (stable, decay)]


def test_a_decay_averages_out_wrong_labels_that_the_stable_rate_follows():
    ends = digits.run(recipe, digits.losses, digits.init(), digits.noisy(0.4)[0], digits.KEY(0))
    stable, decayed = (float(np.mean(digits.losses(params, digits.train()))) for params in ends)
    assert decayed < 0.95 * stable
    assert digits.accuracy(ends[1]) > digits.accuracy(ends[0]) + 0.02
