"""Train an embedding on the pairs that the hardest pair of the other kind makes informative.

Method: multi-similarity
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining, sampling, value_and_grad
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler, miner = sampling.by_class(10, 10, 6), mining.mine_multi_similarity(epsilon=0.1)

    def similarities(params, batch):
        return mining.cosine_similarity(embed(params, batch["x"]))

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        fn = value_and_grad(
            similarities,
            miner,
            items="similarities",
            loss=mining.multi_similarity_loss,
        )
        (_, aux), grads, state = fn(params, batch, state, labels=batch["y"])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (batch["y"], aux.items, aux.weights)

    places = sampler.init(key, labels=data["y"])
    start = params, optimizer.init(params), miner.init(jnp.zeros((60, 60))), places
    (params, *_), seen = jax.lax.scan(step, start, length=100)
    return params, seen


def test_informative_pairs_are_kept_and_the_embedding_is_learned():
    params, (labels, similarities, weights) = digits.run(
        recipe, digits.embed, digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    same, i, j = labels[:, :, None] == labels[:, None], np.arange(60)[:, None], np.arange(60)[None]
    kept, positive = np.asarray(weights) > 0, np.asarray(same & (i != j))
    d = 1 - np.asarray(similarities)
    farthest = np.max(np.where(positive, d, -np.inf), axis=2, keepdims=True)
    nearest = np.min(np.where(same, np.inf, d), axis=2, keepdims=True)
    wanted = (positive & (d + 0.1 > nearest)) | (~np.asarray(same) & (d - 0.1 < farthest))
    assert np.mean(kept == wanted) > 0.995
    assert np.mean(kept[-1]) < np.mean(kept[0])  # fewer, as training goes on
    assert digits.precision(params) > 0.85 > digits.pixel_precision()
