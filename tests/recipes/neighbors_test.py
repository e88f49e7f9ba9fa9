"""Classify images by their five nearest neighbors.

Method: nearest neighbors in blocks
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import metrics, mining
from tests.recipes import digits


def recipe(images, labels, queries):
    references, queries = map(mining.normalize_embeddings, (images, queries))
    found = metrics.neighbors(queries, references, 5, block_size=64)
    votes = jnp.sum(jax.nn.one_hot(labels[found.indices], 10), axis=1)
    return jnp.argmax(votes, axis=1)


def test_neighbors_vote_for_the_right_digit():
    data, held_out = digits.train(), digits.held_out()
    guesses = digits.run(recipe, data["x"], data["y"], held_out["x"])
    assert np.mean(guesses == np.asarray(held_out["y"])) > 0.96
