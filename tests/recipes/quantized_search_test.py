"""Classify images by their five nearest neighbors, found among images of 16 bytes.

Method: two-stage nearest search (product quantization)
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import metrics
from tests.recipes import digits


def recipe(images, labels, queries):
    code = metrics.product_code(0, images, num_parts=16, num_codes=64, max_iterations=5)
    found = metrics.quantized_neighbors(queries, images, code, 5, shortlist=50)
    votes = jnp.sum(jax.nn.one_hot(labels[found.indices], 10), axis=1)
    return jnp.argmax(votes, axis=1)


def test_neighbors_vote_for_the_right_digit():
    data, held_out = digits.train(), digits.held_out()
    guesses = digits.run(recipe, data["x"], data["y"], held_out["x"])
    assert np.mean(guesses == np.asarray(held_out["y"])) > 0.96
