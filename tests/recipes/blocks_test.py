"""Train an embedding on a large batch, 64 anchors at a time, so that no array of all pairs is formed.

Method: blocks of a batch over devices
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining, sampling
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 256)
    loss = functools.partial(mining.supcon_loss, reduction="anchors")

    def objective(params, batch):
        z = embed(params, batch["x"])
        return jnp.mean(mining.blockwise_losses(loss, z, batch["y"], block_size=64))

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(objective)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key)
    return jax.lax.scan(step, start, length=60)[0][0]


def test_the_embedding_is_learned_as_with_all_pairs_at_once():
    run = digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    params = digits.run(recipe, digits.embed, *run)
    assert digits.precision(params) > 0.9 > digits.pixel_precision()
    batch = digits.first(digits.train(), 256)
    z = digits.embed(params, batch["x"])
    masks = mining.positive_mask(batch["y"]), mining.negative_mask(batch["y"])
    losses = mining.supcon_loss(mining.cosine_similarity(z), *masks, reduction="anchors")
    blocks = mining.blockwise_losses(
        functools.partial(mining.supcon_loss, reduction="anchors"), z, batch["y"], block_size=64
    )
    np.testing.assert_allclose(blocks, losses, rtol=1e-4)
