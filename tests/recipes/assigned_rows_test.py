"""Give each image to the nearest of 64 centers, and count what each stands for.

Method: rows assigned to centers
"""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits


def recipe(images):
    centers = images[selection.k_center(images, 64).indices]
    found = selection.assign_rows(images, centers, block_size=256)
    return centers, found, jnp.bincount(found.indices, length=64)


def test_each_image_is_with_the_nearest_center():
    images = digits.train()["x"]
    centers, found, counts = digits.run(recipe, images)
    distances = np.linalg.norm(np.asarray(images)[:, None] - centers[None], axis=-1)
    chosen = np.take_along_axis(distances, found.indices[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.distances, distances.min(axis=1), rtol=1e-4, atol=1e-5)
    assert counts.sum() == len(images)
    labels = np.asarray(digits.train()["y"])
    majority = [np.bincount(labels[found.indices == c]).max() for c in range(64) if counts[c]]
    assert sum(majority) / len(images) > 0.75
