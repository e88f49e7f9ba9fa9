"""Train two embedders on large batches of pairs, 64 pairs at a time, each pair against all others of the batch.

Method: contrastive batches beyond memory (GradCache)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining, sampling, value_and_grad
from minibatch_jax.boundaries import embed_in_blocks
from tests.recipes import digits, halves


def recipe(embed, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["upper"]), 256)
    everyone = optax.with_extra_args_support(optax.identity())
    loss = functools.partial(mining.supcon_loss, temperature=0.1, reduction="anchors")

    def losses(params, embeddings, batch):
        upper, lower = embeddings
        pairs = jnp.arange(len(upper))
        return mining.blockwise_losses(loss, upper, pairs, lower, pairs, block_size=64)

    fn = value_and_grad(losses, everyone, encode=embed, block_size=64)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        _, grads, _ = fn(params, batch, optax.EmptyState())
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key)
    return jax.lax.scan(step, start, length=60)[0][0]


def test_halves_of_one_image_find_each_other():
    x = digits.train()["x"]
    pairs = halves.pairs_of(x, x)
    params = digits.run(recipe, halves.embed, halves.init(), digits.OPTIMIZER, pairs, digits.KEY(0))
    assert halves.recall(params) > 0.5  # 0.04 by chance
    batch = digits.first(pairs, 128)
    for found, expected in zip(embed_in_blocks(halves.embed, params, batch, 64), halves.embed(params, batch)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
