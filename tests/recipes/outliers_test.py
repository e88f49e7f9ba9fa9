"""Find wrong labels: two centers for each class, of which the right images take one.

Method: outliers of sub-centers
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import mining
from tests.recipes import digits


def recipe(embed, params, optimizer, data, key):
    def cosines(params, x):
        z = embed(params["net"], x)
        return mining.cosine_similarity(z, params["centers"]).reshape(-1, 10, 2)

    def objective(params, batch):
        own = jax.nn.one_hot(batch["y"], 10) > 0
        nearest = jnp.max(cosines(params, batch["x"]), axis=2)
        return mining.margin_softmax_loss(nearest, own, ~own, angle=0.1, scale=8.0)

    def step(carry, key):
        params, opt_state = carry
        rows = jax.random.choice(key, len(data["y"]), (64,))
        grads = jax.grad(objective)(params, jax.tree.map(lambda a: a[rows], data))
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    start = params, optimizer.init(params)
    params = jax.lax.scan(step, start, jax.random.split(key, 150))[0][0]
    return mining.sub_center_outliers(cosines(params, data["x"]), data["y"], angle=1.2)


def test_most_outliers_are_wrong_labels_and_most_of_these_are_found():
    data, wrong = digits.noisy(0.2)
    centers = jax.random.normal(jax.random.key(1), (20, 16))
    params = {"net": digits.init_embedder(), "centers": centers}
    found = digits.run(recipe, digits.embed, params, digits.OPTIMIZER, data, digits.KEY(0))
    assert np.mean(wrong[found.mask]) > 0.8
    assert np.mean(found.mask[wrong]) > 0.8
