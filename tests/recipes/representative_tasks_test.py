"""Choose tasks to run on a new model, and predict its scores on all others.

Method: representative tasks
"""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits


def recipe(record, families, scores):
    chosen = selection.representative_tasks(record, 3)
    fit = selection.held_out_fit(record, families, 4, chosen.indices)
    return selection.predict_tasks(record, chosen.indices, scores[:, chosen.indices]), fit


def test_three_tasks_say_most_of_twelve():
    rng = np.random.default_rng(0)
    record = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 12)) + 0.2 * rng.normal(size=(40, 12))
    record, new = (jnp.asarray(part, jnp.float32) for part in np.split(record, [32]))
    predicted, fit = digits.run(recipe, record, jnp.arange(32) % 4, new)
    error = np.mean((predicted - np.asarray(new)) ** 2) / np.mean((np.asarray(record).mean(0) - np.asarray(new)) ** 2)
    assert error < 0.15 and abs(1 - fit - error) < 0.15
