"""Label the 64 images that leave no image far away, and train on them.

Method: k-center (core-set)
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax import selection
from tests.recipes import digits


def recipe(losses, params, optimizer, images, label):
    chosen = selection.k_center(images, 64)
    batch = {"x": images[chosen.indices], "y": label(chosen.indices)}

    def step(carry, _):
        params, opt_state = carry
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=150)
    return params, chosen


def test_every_image_is_near_a_chosen_one_and_the_digits_are_learned():
    data = digits.train()
    params, chosen = digits.run(
        recipe, digits.losses, digits.init(), digits.OPTIMIZER, data["x"], lambda rows: data["y"][rows]
    )
    x, centers = np.asarray(data["x"]), np.asarray(data["x"][chosen.indices])
    distances = np.linalg.norm(x[:, None] - centers[None], axis=-1)
    np.testing.assert_allclose(distances.min(axis=1).max(), chosen.radius, rtol=1e-4)
    random = np.linalg.norm(x[:, None] - x[None, :64], axis=-1)
    assert chosen.radius < 0.85 * random.min(axis=1).max()
    assert digits.accuracy(params) > 0.75
