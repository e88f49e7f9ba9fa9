"""Train on batches from a mixture that follows from the sizes of the domains.

Method: temperature sampling, UniMax
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mixing, normalize, sampling, value_and_grad
from tests.recipes import digits


def recipe(losses, params, optimizer, data, mixture, key):
    sampler, natural = sampling.weighted(64), jnp.bincount(data["d"], length=3) / len(data["d"])

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        _, grads, _ = value_and_grad(losses, normalize())(params, batch, optax.EmptyState())
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), batch["d"]

    place = sampler.init(key, weights=(mixture / natural)[data["d"]])
    (params, *_), seen = jax.lax.scan(step, (params, optimizer.init(params), place), length=150)
    return params, seen


def test_domains_are_seen_in_their_proportions():
    data = digits.domains()
    sizes = np.bincount(data["d"])
    tempered = mixing.temperature_mixture(sizes, 3.0)
    capped = mixing.unimax_mixture(sizes, budget=150 * 64, max_epochs=5).mixture
    for mixture in (tempered, capped):
        params, seen = digits.run(recipe, digits.losses, digits.init(), digits.OPTIMIZER, data, mixture, digits.KEY(0))
        np.testing.assert_allclose(np.bincount(seen.ravel()) / seen.size, mixture, atol=0.02)
        assert digits.accuracy(params) > 0.85
