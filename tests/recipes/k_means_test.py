"""Label the image nearest to the center of each of 20 clusters, 20 at a time and with no network.

Method: embedding k-means
"""

import jax
import jax.numpy as jnp

from minibatch_jax import selection
from tests.recipes import digits, labeling


def recipe(images, key):
    select = selection.keep_by_k_means(labeling.LABELS, key)
    pool = jnp.ones(len(images))
    return jax.jit(select.update)(pool, select.init(pool), features=images)[0]


def test_images_in_the_middle_of_clusters_teach_more_than_random_ones():
    labeled = recipe(labeling.images(), 0)
    assert int(labeled.sum()) == labeling.LABELS
    assert digits.accuracy(labeling.fit(labeled)) > labeling.random_accuracy()
