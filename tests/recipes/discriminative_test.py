"""Label 20 images at a time that a small classifier tells apart from the labeled ones.

Method: discriminative active learning
"""

from minibatch_jax import selection
from tests.recipes import digits, labeling


def recipe(images, labeled, key):
    for seed in range(4):
        keep = {"num_rounds": 5, "num_steps": 30}
        new = selection.discriminative_indices(key + seed, images, 20, labeled > 0, **keep)
        labeled = labeled.at[new].set(1)
    return labeled


def test_the_labels_teach():
    labeling.check(digits.run(recipe, labeling.images(), labeling.start(), 0))
