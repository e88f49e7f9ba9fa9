"""Regress when only three sources of ten are genuine, with a little trusted data.

Method: list-decodable regression
"""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits


def recipe(inputs, targets, trusted_inputs, trusted_targets):
    found = selection.list_regressions(0, inputs, targets, fraction=0.3)
    return selection.list_decodable.best_of_list(found, trusted_inputs, trusted_targets)


def test_the_genuine_regressor_is_found_where_least_squares_fail():
    x = np.asarray(digits.train()["x"])[:1280]
    x = (x - x.mean(axis=0)) @ np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:4].T  # four components
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(4, 4))  # of the genuine sources, and of three kinds of impostors
    kinds = np.array([0] * 12 + [1] * 10 + [2] * 9 + [3] * 9)
    inputs = x.reshape(40, 32, 4).astype(np.float32)
    targets = np.einsum("mnd,md->mn", inputs, slopes[kinds]) + 0.05 * rng.normal(size=(40, 32))
    inputs, targets = jnp.asarray(inputs), jnp.asarray(targets, jnp.float32)
    trusted = inputs[0, :4], targets[0, :4]
    found = np.asarray(digits.run(recipe, inputs, targets, *trusted))
    least = np.linalg.lstsq(inputs.reshape(-1, 4), targets.reshape(-1), rcond=None)[0]
    assert np.linalg.norm(found - slopes[0]) < 0.05
    assert np.linalg.norm(least - slopes[0]) > 0.5
