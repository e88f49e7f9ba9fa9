"""Train an embedding where 2000 triplets are all that is known.

Method: fixed triplets
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining, sampling
from tests.recipes import digits


def recipe(embed, params, optimizer, images, triplets, key):
    sampler = sampling.fixed_triplets(len(triplets), 50)
    # 0, 1, 2 at the anchor, positive and negative of each triplet
    columns = jnp.arange(150)[None] - 3 * jnp.arange(50)[:, None]

    def objective(params, x):
        z = embed(params, x)
        distances = mining.euclidean_distances(z[::3], z)
        return mining.triplet_loss(distances, columns == 1, columns == 2, margin=0.5, mining="all")

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        grads = jax.grad(objective)(params, images[rows.indices])
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), rows.indices

    start = params, optimizer.init(params), sampler.init(key, triplets=triplets)
    return jax.lax.scan(step, start, length=160)


def test_every_triplet_comes_once_in_an_epoch_and_the_embedding_is_learned():
    data = digits.train()
    triplets = sampling.fixed_triplets(2000, 50).init(0, labels=data["y"]).triplets
    labels = np.asarray(data["y"])[triplets]
    assert np.all(labels[:, 0] == labels[:, 1]) and np.all(labels[:, 0] != labels[:, 2])
    arguments = digits.embed, digits.init_embedder(), digits.OPTIMIZER, data["x"], triplets, digits.KEY(0)
    (params, *_), seen = digits.run(recipe, *arguments)
    for epoch in seen.reshape(4, 2000, 3):
        assert sorted(epoch.tolist()) == sorted(triplets.tolist())
    assert digits.precision(params) > 0.85 > digits.pixel_precision()
