"""Take a batch eight times as large with eight times the rate, from the rate of the small batch on.

Method: scaling rules and gradual warm-up
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax import sampling, schedules
from tests.recipes import digits


def recipe(losses, params, data, key, base_rate, base_batch, batch):
    peak = schedules.linear_scaling(base_rate, base_batch, batch)
    rate = schedules.gradual_warmup(base_rate, peak, warmup_steps=5 * (base_batch < batch))
    optimizer = optax.sgd(rate, 0.9)
    sampler = sampling.shuffled(len(data["y"]), batch)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        chosen = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(lambda p: losses(p, chosen) @ rows.weights)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key)
    epochs = 8
    return jax.lax.scan(step, start, length=epochs * len(data["y"]) // batch)[0][0]


def test_a_batch_of_256_is_as_good_as_one_of_32_only_with_the_scaled_rate():
    run = digits.losses, digits.init(), digits.train(), digits.KEY(0)
    small = digits.accuracy(digits.run(recipe, *run, 0.02, 32, 32))
    scaled = digits.accuracy(digits.run(recipe, *run, 0.02, 32, 256))
    same_rate = digits.accuracy(digits.run(recipe, *run, 0.02, 256, 256))
    assert min(small, scaled) > 0.93 > same_rate
    assert jnp.abs(small - scaled) < 0.03
