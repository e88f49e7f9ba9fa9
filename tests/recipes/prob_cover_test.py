"""Label 20 images at a time whose balls cover most of what no labeled image covers; a rule chooses the radius.

Method: ProbCover
"""

import jax.numpy as jnp

from minibatch_jax import selection
from tests.recipes import digits, labeling


def recipe(images, labeled, key):
    clusters = selection.k_means_clusters(key, images, 10, metric="cosine").owners
    radius = selection.largest_pure_radius(images, clusters, purity=0.9)
    for seed in range(4):
        found = selection.prob_cover_indices(key + seed, images, 20, radius, labeled=labeled > 0)
        labeled = labeled.at[found.indices].set(1)
    return labeled, jnp.mean(found.covered)


def test_more_images_are_covered_than_by_random_ones_and_they_teach():
    labeled, covered = digits.run(recipe, labeling.images(), labeling.start(), 0)
    labeling.check(labeled)
    assert 0.2 < covered < 1
    assert digits.accuracy(labeling.fit(labeled)) > labeling.random_accuracy()
