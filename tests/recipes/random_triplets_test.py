"""Train an embedding on one random negative for each positive pair: the baseline of mining.

Method: random triplets, the uninformed baseline
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining, sampling, value_and_grad
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler, miner = sampling.by_class(10, 10, 6), mining.mine_random(key=1, margin=0.2)

    def distances(params, batch):
        return mining.euclidean_distances(embed(params, batch["x"]))

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        fn = value_and_grad(distances, miner, items="distances")
        (_, aux), grads, state = fn(params, batch, state, labels=batch["y"])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (batch["y"], aux.items, aux.weights)

    places = sampler.init(key, labels=data["y"])
    start = params, optimizer.init(params), miner.init(jnp.zeros((60, 60))), places
    (params, *_), seen = jax.lax.scan(step, start, length=100)
    return params, seen


def test_each_negative_is_in_an_active_triplet_and_the_embedding_is_learned():
    params, (labels, _, weights) = digits.run(
        recipe, digits.embed, digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    same, i, j = labels[:, :, None] == labels[:, None], np.arange(60)[:, None], np.arange(60)[None]
    kept, positive = np.asarray(weights) > 0, np.asarray(same & (i != j))
    share = np.mean(np.sum(kept & ~positive, axis=(1, 2)))
    assert 0 < share < np.sum(positive[0])  # at most one negative for each positive pair
    np.testing.assert_allclose(
        np.sum(weights, axis=2, where=positive), np.sum(weights, axis=2, where=~positive), atol=1e-5
    )
    assert digits.precision(params) > 0.85 > digits.pixel_precision()
