"""Label the most typical image of each cluster that has no label yet, 20 at a time.

Method: TypiClust
"""

from minibatch_jax import selection
from tests.recipes import digits, labeling


def recipe(images, labeled, key):
    for labels in (20, 40, 60, 80):
        new = selection.typi_clust_indices(key, images, 20, labels + 20, labeled=labeled > 0)
        labeled = labeled.at[new].set(1)
    return labeled


def test_typical_images_teach_more_than_random_ones():
    labeled = digits.run(recipe, labeling.images(), labeling.start(), 0)
    labeling.check(labeled)
    assert digits.accuracy(labeling.fit(labeled)) > labeling.random_accuracy()
