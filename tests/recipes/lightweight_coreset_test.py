"""Train on 64 weighted images that stand for all: the squared distances to any centers add up to nearly the same.

Method: light-weight core-set
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits


def recipe(images, keys):
    def draw(key):
        select = selection.keep_lightweight_coreset(64, key)
        weights = jnp.ones(len(images))
        return select.update(weights, select.init(weights), features=images)[0]

    return jax.vmap(draw)(keys)


def test_costs_of_centers_are_those_of_all_images():
    images = digits.train()["x"]
    weights = digits.run(recipe, images, jax.random.split(digits.KEY(0), 100))
    x = np.asarray(images)
    cost = np.min(np.sum((x[:, None] - x[None, :10]) ** 2, axis=2), axis=1)
    found = weights @ cost / cost.sum()
    assert abs(found.mean() - 1) < 4 * found.std() / 10
    assert found.std() < 0.2 and np.all((weights > 0).sum(axis=1) <= 64)
