"""Train an embedding on small batches, with 512 past embeddings as further references.

Method: cross-batch memory
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining, sampling, value_and_grad
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler, miner = sampling.shuffled(len(data["y"]), 16), mining.mine_multi_similarity()

    def similarities(params, batch, memory):
        z, labels = embed(params, batch["x"]), batch["y"]
        pairs = mining.memory_pairs(memory, z, labels)
        return (
            mining.cosine_similarity(z, pairs.references),
            {"positives": pairs.positives, "negatives": pairs.negatives},
            mining.remember(memory, z, labels),
        )

    fn = value_and_grad(
        similarities,
        miner,
        items="similarities",
        loss=mining.multi_similarity_loss,
        has_aux=True,
        has_state=True,
    )

    def step(carry, _):
        params, opt_state, state, memory, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        (_, aux), grads, state = fn(params, batch, state, model_state=memory)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, aux.model_state, place), aux.weights

    weights, memory = jnp.zeros((16, 16 + 512)), mining.init_memory(512, 16)
    start = params, optimizer.init(params), miner.init(weights), memory, sampler.init(key)
    return jax.lax.scan(step, start, length=150)


def test_past_embeddings_are_used_and_the_embedding_is_learned():
    (params, _, _, memory, _), weights = digits.run(
        recipe, digits.embed, digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    assert np.all(np.sum(weights[1:, :, 16:], axis=(1, 2)) > 0)
    kept = np.asarray(weights[-20:]) > 0
    assert np.sum(kept[:, :, 16:]) > 10 * np.sum(kept[:, :, :16])  # most informative pairs are with the memory
    assert memory.num_stored >= 512 and set(np.asarray(memory.labels).tolist()) == set(range(10))
    assert digits.precision(params) > 0.85 > digits.pixel_precision()
