"""Fine-tune on few examples by the parameters on which two dropout passes agree.

Method: sub-nets within a batch (Bi-Drop)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import sampling
from minibatch_jax.boundaries import subnet_aggregate
from tests.recipes import digits


def recipe(losses, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)
    tx = optax.chain(subnet_aggregate(2, fraction=0.5), optimizer)

    def with_dropout(params, batch, key):
        kept = jax.random.bernoulli(key, 0.9, batch["x"].shape)
        return jnp.mean(losses(params, batch | {"x": jnp.where(kept, batch["x"] / 0.9, 0)}))

    def step(carry, key):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.vmap(lambda k: jax.grad(with_dropout)(params, batch, k))(jax.random.split(key))
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, place), updates

    start = params, tx.init(params), sampler.init(key)
    (params, *_), updates = jax.lax.scan(step, start, jax.random.split(key, 150))
    return params, updates[0]["w"]


def test_half_of_the_parameters_start_to_move_and_the_digits_are_learned():
    few = jax.tree.map(lambda a: a[:512], digits.train())
    params, moved = digits.run(recipe, digits.losses, digits.init(), optax.sgd(0.3), few, digits.KEY(0))
    assert np.allclose(np.mean(np.asarray(moved) != 0, axis=(1, 2)), 0.5, atol=0.02)
    assert digits.accuracy(params) > 0.85
