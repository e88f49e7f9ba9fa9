"""Train an embedding on one triplet of each anchor: easy positive, semi-hard negative.

Method: batch-hard, easy-positive, batch-all triplets
"""

import jax
import optax

from minibatch_jax import mining, sampling
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    sampler = sampling.by_class(10, 10, 6)

    def objective(params, batch):
        return mining.mined_triplet_loss(
            embed(params, batch["x"]),
            batch["y"],
            positive="easy",
            negative="semihard",
        )

    def step(carry, _):
        params, opt_state, place = carry
        rows, place = sampler.sample(place)
        batch = jax.tree.map(lambda a: a[rows.indices], data)
        grads = jax.grad(objective)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state, place), None

    start = params, optimizer.init(params), sampler.init(key, labels=data["y"])
    return jax.lax.scan(step, start, length=100)[0][0]


def test_the_embedding_is_learned():
    params = digits.run(recipe, digits.embed, digits.init_embedder(), digits.OPTIMIZER, digits.train(), digits.KEY(0))
    assert digits.precision(params) > 0.85 > digits.pixel_precision()
