"""Train an embedding on batches of classes that look alike, by proxies of the last epoch.

Method: GPM
"""

import jax
import numpy as np
import optax

from minibatch_jax import mining, sampling
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler = sampling.by_proxies(10, 2, 16, 16)
    pairs = mining.positive_mask, mining.negative_mask

    def objective(params, batch):
        z, masks = embed(params, batch["x"]), [mask(batch["y"]) for mask in pairs]
        return mining.multi_similarity_loss(mining.cosine_similarity(z), *masks), z

    def step(carry, _):
        params, opt_state, places = carry
        rows, places = sampler.sample(places)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads, z = jax.grad(objective, has_aux=True)(params, batch)
        places = sampler.update(places, rows, embeddings=z)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, places), (rows.indices, places.proxies.embeddings)

    start = params, optimizer.init(params), sampler.init(key, labels=data["y"])
    (params, *_), seen = jax.lax.scan(step, start, length=150)
    return params, seen


def test_classes_of_a_batch_are_neighbors_and_the_embedding_is_learned():
    data = digits.train()
    params, (rows, proxies) = recipe(digits.embed, digits.init_embedder(), digits.OPTIMIZER, data, digits.KEY(0))
    first, second = np.asarray(data["y"])[np.asarray(rows)[:, ::16]].T
    for epoch in range(1, 30):
        cosines = np.asarray(proxies[5 * epoch - 1]) @ np.asarray(proxies[5 * epoch - 1]).T
        remaining = set(range(10))
        for i, j in zip(first[5 * epoch :][:5], second[5 * epoch :][:5]):
            remaining.discard(i)
            assert j == max(remaining, key=lambda c: cosines[i, c])
            remaining.discard(j)
    assert digits.precision(params) > 0.85 > digits.pixel_precision()
