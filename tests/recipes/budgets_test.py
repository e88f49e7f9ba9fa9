"""Choose how many times each class is seen, and check the budget before training.

Method: blends by epochs, budgets, sequence lengths
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mixing, sampling
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key, blend):
    sampler = sampling.mixture(10, 64, lambda step: blend.mixture)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key, domains=data["y"])
    (params, _, place), _ = jax.lax.scan(step, start, length=150)
    return params, place.epochs + place.position / place.by_domain.sizes


def test_a_run_of_the_length_of_the_blend_sees_each_class_as_often_as_asked():
    sizes = jnp.bincount(digits.train()["y"], length=10).astype(jnp.float32)
    wanted = jnp.where(jnp.arange(10) < 5, 4.0, 8.0)
    blend = mixing.blend_from_epochs(sizes, wanted * 150 * 64 / jnp.sum(wanted * sizes))  # 150 batches of 64
    assert float(blend.tokens) == 150 * 64
    budget = mixing.schedule_budget(lambda step: blend.mixture, sizes, 150, 64, max_epochs=9.0)
    assert not budget.exceeded.any()
    arguments = digits.losses, digits.init(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    params, epochs = digits.run(recipe, *arguments, blend)
    np.testing.assert_allclose(epochs, budget.epochs, atol=0.1)
    assert digits.accuracy(params) > 0.95
