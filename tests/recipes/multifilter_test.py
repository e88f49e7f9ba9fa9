"""Regress when only three sources of ten are genuine: a list by filtering and splitting, and a little trusted data.

Method: multifilter
"""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import selection
from tests.recipes import digits


def recipe(inputs, targets, trusted_inputs, trusted_targets):
    scale = jnp.sqrt(jnp.mean(inputs**2, axis=(0, 1)))
    found = selection.multifilter_regressions(inputs / scale, targets, fraction=0.3)
    best = selection.list_decodable.best_of_list(found, trusted_inputs / scale, trusted_targets)
    return best / scale


def test_the_genuine_regressor_is_found_where_least_squares_fail():
    x = np.asarray(digits.train()["x"])[:1280]
    x = (x - x.mean(axis=0)) @ np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:4].T  # four components
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(4, 4))  # of the genuine sources, and of three kinds of impostors
    kinds = np.array([0] * 12 + [1] * 10 + [2] * 9 + [3] * 9)
    inputs = x.reshape(40, 32, 4).astype(np.float32)
    targets = np.einsum("mnd,md->mn", inputs, slopes[kinds]) + 0.05 * rng.normal(size=(40, 32))
    inputs, targets = jnp.asarray(inputs), jnp.asarray(targets, jnp.float32)
    found = np.asarray(digits.run(recipe, inputs, targets, inputs[0, :8], targets[0, :8]))
    least = np.linalg.lstsq(inputs.reshape(-1, 4), targets.reshape(-1), rcond=None)[0]
    assert np.linalg.norm(found - slopes[0]) < 0.1
    assert np.linalg.norm(least - slopes[0]) > 0.5
