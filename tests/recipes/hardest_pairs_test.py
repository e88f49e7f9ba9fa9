"""Train an embedding on the hardest half of the pairs of each batch.

Method: hardest pairs of a batch, ranks of an anchor, allowed distances
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining, sampling, value_and_grad
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler, miner = sampling.by_class(10, 10, 6), mining.mine_hardest_pairs(0.5)

    def distances(params, batch):
        return mining.euclidean_distances(embed(params, batch["x"]))

    def step(carry, _):
        params, opt_state, state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        fn = value_and_grad(distances, miner, items="distances", loss=mining.contrastive_loss)
        (_, aux), grads, state = fn(params, batch, state, labels=batch["y"])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, state, place), (batch["y"], aux.items, aux.weights)

    places = sampler.init(key, labels=data["y"])
    start = params, optimizer.init(params), miner.init(jnp.zeros((60, 60))), places
    (params, *_), seen = jax.lax.scan(step, start, length=100)
    return params, seen


def test_the_farthest_positives_and_nearest_negatives_are_kept_and_the_embedding_is_learned():
    params, (labels, distances, weights) = digits.run(
        recipe, digits.embed, digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    same, i, j = labels[:, :, None] == labels[:, None], np.arange(60)[:, None], np.arange(60)[None]
    kept, positive = np.asarray(weights) > 0, np.asarray(same & (i != j))
    d = np.asarray(distances)
    for t in (0, 50, 99):
        wanted = (d[t] >= np.median(d[t][positive[t]])) & positive[t] | (d[t] <= np.median(d[t][~same[t]])) & ~same[t]
        assert np.mean(kept[t] == wanted) > 0.995
    assert digits.precision(params) > 0.85 > digits.pixel_precision()
