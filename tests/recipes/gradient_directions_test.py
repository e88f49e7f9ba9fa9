"""Watch how much mini-batch gradients agree, for batches of two sizes.

Method: directions of mini-batch gradients
"""

import jax
import jax.numpy as jnp

from minibatch_jax.scores import gradient_direction_error, gradient_direction_variance
from tests.recipes import digits


def recipe(losses, params, data, key):
    gradient = jax.grad(lambda p, batch: jnp.mean(losses(p, batch)))

    def directions(size):
        rows = jax.random.randint(key, (8, size), 0, len(data["y"]))
        batches = jax.tree.map(lambda a: a[rows], data)
        grads = jax.lax.map(lambda batch: gradient(params, batch), batches)
        variance = gradient_direction_variance(grads)
        return variance, gradient_direction_error(grads, gradient(params, data))

    return directions(16), directions(128)


def test_larger_batches_agree_more_and_err_less():
    params = digits.fit(digits.init(), digits.train(), 75)
    small, large = digits.run(recipe, digits.losses, params, digits.train(), digits.KEY(0))
    assert 0.5 > small[0] > large[0] + 0.05 > 0 and 0.5 > small[1] > large[1] + 0.05 > 0
