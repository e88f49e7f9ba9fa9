"""Train an embedding on batches from two of three groups of digits that look alike.

Method: batches of groups of classes
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining, sampling
from tests.recipes import digits

GROUP_OF = jnp.array([0, 1, 1, 2, 1, 2, 0, 1, 2, 2])  # of each digit


def recipe(embed, params, optimizer, data, key):
    sizes = {"groups_per_batch": 2, "classes_per_group": 2, "per_class": 15}
    sampler = sampling.by_hierarchy(10, 3, **sizes)

    def objective(params, batch):
        z, labels = embed(params, batch["x"]), batch["y"]
        masks = mining.positive_mask(labels), mining.negative_mask(labels)
        return mining.supcon_loss(mining.cosine_similarity(z), *masks)

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(objective)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), rows.indices

    place = sampler.init(key, labels=data["y"], groups=data["group"])
    return jax.lax.scan(step, (params, optimizer.init(params), place), length=150)


def test_every_pair_of_groups_comes_once_in_three_batches_and_the_embedding_is_learned():
    data = digits.train() | {"group": GROUP_OF[digits.train()["y"]]}
    (params, *_), seen = digits.run(recipe, digits.embed, digits.init_embedder(), digits.OPTIMIZER, data, digits.KEY(0))
    labels, groups = (np.asarray(data[name])[seen].reshape(50, 3, 2, 2, 15) for name in ("y", "group"))
    assert np.all(labels == labels[..., :1]) and np.all(labels[..., 0, 0] != labels[..., 1, 0])
    assert np.all(groups == groups[..., :1, :1])
    pairs = np.sort(groups[..., 0, 0], axis=2)
    assert all(sorted(epoch.tolist()) == [[0, 1], [0, 2], [1, 2]] for epoch in pairs)
    assert len({tuple(epoch.reshape(-1)) for epoch in pairs}) == 6  # in all orders
    assert digits.precision(params) > 0.85 > digits.pixel_precision()
