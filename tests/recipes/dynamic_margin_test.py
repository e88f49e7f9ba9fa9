"""Train an embedding on triplets that weigh more the harder they are among all so far.

Method: dynamic soft margin
"""

import jax
import numpy as np
import optax

from minibatch_jax import mining, sampling
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler = sampling.by_class(10, 10, 6)

    def objective(params, margin, batch):
        distances = mining.euclidean_distances(embed(params, batch["x"]))
        masks = mining.positive_mask(batch["y"]), mining.negative_mask(batch["y"])
        return mining.dynamic_margin_loss(margin, distances, *masks, mining="hard")

    def step(carry, _):
        params, opt_state, margin, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads, margin = jax.grad(objective, has_aux=True)(params, margin, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, margin, place), margin.histogram

    place = sampler.init(key, labels=data["y"])
    start = params, optimizer.init(params), mining.init_dynamic_margin(), place
    (params, *_), histograms = jax.lax.scan(step, start, length=100)
    return params, histograms


def test_triplets_grow_easier_and_the_embedding_is_learned():
    params, histograms = digits.run(
        recipe, digits.embed, digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    means = np.asarray(histograms) @ np.linspace(-2, 2, histograms.shape[1])  # of d_ap - d_an
    np.testing.assert_allclose(np.sum(histograms, axis=1), 1, rtol=1e-4)
    assert means[-1] < means[0] - 0.1
    assert digits.precision(params) > 0.8 > digits.pixel_precision()
