"""Draw each batch from a mixture of domains that follows their losses.

Method: online data mixing (ODM)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mixing, normalize, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    mix = mixing.mix_by_odm(loss_scale=15.0, floor=0.03)
    natural = jnp.bincount(data["d"], length=3) / len(data["d"])

    def step(carry, key):
        params, opt_state, mixture, state = carry
        chances = (mixture / natural)[data["d"]] / len(data["d"])
        rows = jax.random.choice(key, len(chances), (64,), p=chances)
        batch = jax.tree.map(lambda a: a[rows], data)
        select = value_and_grad(losses, normalize())
        (_, aux), grads, _ = select(params, batch, optax.EmptyState())
        means, counts = mixing.losses_by_domain(aux.items, batch["d"], 3)
        mixture, state = mix.update(natural, state, domain_losses=means, domain_counts=counts)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, mixture, state), (mixture, counts)

    start = params, optimizer.init(params), natural, mix.init(natural)
    (params, *_), seen = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, seen


def test_batches_follow_the_mixture_and_the_domain_of_random_labels_takes_most_of_it():
    params, (mixtures, counts) = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, digits.domains(), digits.KEY(0)
    )
    np.testing.assert_allclose(counts[1:].mean(axis=0) / 64, mixtures[:-1].mean(axis=0), atol=0.02)
    assert mixtures[-1, 2] > 0.5 > 1 / 3 > mixtures[-1, 0]  # ODM rewards loss, also that of noise
    assert digits.accuracy(params) > 0.8
