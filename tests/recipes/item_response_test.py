"""Judge a new model on a few items, with the answers to all others predicted from its ability.

Method: item response theory
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits


def recipe(record, answers, indices):
    items = selection.fit_item_response(0, record, num_dimensions=1)
    mean_of = lambda right: selection.response_mean(items, indices, right)  # noqa: E731
    return jax.lax.map(mean_of, answers[:, indices])


def test_the_prediction_is_better_than_the_mean_of_the_few():
    rng = np.random.default_rng(0)
    ability, difficulty = rng.normal(size=(140, 1)), 1.5 * rng.normal(size=200)
    right = (rng.random((140, 200)) < 1 / (1 + np.exp(difficulty - 2 * ability))).astype(np.float32)
    indices = rng.choice(200, 16, replace=False)
    found = digits.run(recipe, jnp.asarray(right[:100]), jnp.asarray(right[100:]), jnp.asarray(indices))
    truth, plain = right[100:].mean(1), right[100:][:, indices].mean(1)
    assert np.mean(np.abs(found - truth)) < 0.85 * np.mean(np.abs(plain - truth))
