"""Keep 4 % of the images by the attention they receive, and classify the others by the nearest one kept.

Method: GAIS
"""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import metrics, selection
from tests.recipes import digits


def recipe(key, images, labels, queries):
    graph = selection.distance_graph(key, images, labels)
    scores = selection.attention_scores(key, images, labels, graph, 10, num_steps=60).scores
    kept = selection.top_with_all_classes(scores, labels, 61, 10)
    unit = images / jnp.linalg.norm(images, axis=1)[:, None]
    found = metrics.neighbors(queries, unit, where=kept)
    return labels[found.indices[:, 0]], kept


def test_few_images_of_all_digits_tell_most_digits():
    data, held_out = digits.train(), digits.held_out()
    guesses, kept = digits.run(recipe, digits.KEY(0), data["x"], data["y"], held_out["x"])
    assert kept.sum() == 61 and len(set(np.asarray(data["y"])[kept])) == 10
    assert np.mean(guesses == np.asarray(held_out["y"])) > 0.6
