"""Choose 20 images that represent all, and improve the choice by swaps.

Method: swaps of medoids
"""

import numpy as np

from minibatch_jax import selection
from minibatch_jax.selection.coresets import similarity_matrix
from tests.recipes import digits


def recipe(images):
    similarities = similarity_matrix(images)
    greedy = selection.facility_location(similarities, 20)
    return selection.refine(similarities, greedy.indices), greedy


def test_swaps_represent_the_images_better_than_the_greedy_choice():
    images = digits.held_out()["x"]
    found, greedy = digits.run(recipe, images)
    assert found.converged
    assert found.value > greedy.gains.sum()
    x = np.asarray(images)
    cost = lambda rows: np.sum((x[:, None] - x[rows][None]) ** 2, axis=-1).min(axis=1).mean()  # noqa: E731
    assert cost(found.indices) < cost(greedy.indices)
