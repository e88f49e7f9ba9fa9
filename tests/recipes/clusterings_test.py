"""Cluster images around medoids and measure how well the clusters agree with the digits.

Method: mutual information of clusterings
"""

import jax.numpy as jnp

from minibatch_jax import metrics, selection
from tests.recipes import digits


def recipe(images, labels):
    medoids = selection.facility_location_from_features(images, 10)
    found = selection.assign_rows(images, images[medoids.indices])
    return metrics.mutual_information(labels, found.indices, 10, 10)


def test_clusters_agree_with_the_digits_and_random_ones_do_not():
    data = digits.held_out()
    found = digits.run(recipe, data["x"], data["y"])
    assert found.normalized > 0.5 and found.adjusted > 0.5
    random = metrics.mutual_information(data["y"], jnp.arange(256) % 10, 10, 10)
    assert abs(random.adjusted) < 0.05 < random.normalized
