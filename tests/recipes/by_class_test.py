"""Train an embedding on batches of 10 classes with 6 examples each.

Method: P x K batches
"""

import jax
import numpy as np
import optax

from minibatch_jax import mining, sampling
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler, pairs = sampling.by_class(10, 10, 6), (mining.positive_mask, mining.negative_mask)

    def objective(params, batch):
        z, masks = embed(params, batch["x"]), [mask(batch["y"]) for mask in pairs]
        return mining.supcon_loss(mining.cosine_similarity(z), *masks)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(objective)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), rows.indices

    start = params, optimizer.init(params), sampler.init(key, labels=data["y"])
    (params, *_), seen = jax.lax.scan(step, start, length=100)
    return params, seen


def test_every_batch_holds_six_of_each_class_and_the_embedding_is_learned():
    params, seen = digits.run(
        recipe, digits.embed, digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.KEY(0)
    )
    labels = np.asarray(digits.train()["y"])[np.asarray(seen)]
    assert all(np.array_equal(np.bincount(row, minlength=10), np.full(10, 6)) for row in labels)
    assert all(len(set(row.tolist())) == 60 for row in np.asarray(seen))
    assert len(np.unique(seen)) > 1500  # of 1536
    assert digits.precision(params) > 0.85 > digits.pixel_precision()
