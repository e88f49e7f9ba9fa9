"""Train an embedding on similarities along the manifold of the batch, with a proxy of each class.

Method: manifold similarity
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax import mining, sampling
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler = sampling.shuffled(len(data["y"]), 64)

    def objective(params, batch):
        z, classes = embed(params["embedder"], batch["x"]), jnp.arange(10)
        similarities = mining.cosine_similarity(jnp.concatenate([z, params["classes"]]))
        masks = (mask(batch["y"], classes) for mask in (mining.positive_mask, mining.negative_mask))
        return mining.manifold_loss(similarities, *masks, margin=0.05, temperature=0.1)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(objective)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key)
    return jax.lax.scan(step, start, length=100)[0][0]


def test_the_embedding_is_learned():
    vectors = mining.normalize_embeddings(jax.random.normal(jax.random.key(1), (10, 16)))
    params = {"embedder": digits.init_embedder(), "classes": vectors}
    params = digits.run(recipe, digits.embed, params, digits.OPTIMIZER, digits.train(), digits.KEY(0))
    assert digits.precision(params["embedder"]) > 0.8 > digits.pixel_precision()
