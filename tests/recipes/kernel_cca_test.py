"""Find what the upper and lower halves of the images have in common, by kernels and by random features of them.

Method: kernel CCA, exact and randomized
"""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import modules
from tests.recipes import digits

FEATURES, BANDWIDTH, RIDGE = 300, 1.5, 1e-3


def recipe(views, held_out):
    kernels = [modules.gaussian_kernel(view, view, bandwidth=BANDWIDTH) for view in views]
    found = modules.kernel_cca(*kernels, num_components=8, ridge=RIDGE)
    pairs = zip(held_out, views, found[:2], strict=True)
    return [modules.gaussian_kernel(x, rows, bandwidth=BANDWIDTH) @ maps for x, rows, maps in pairs]


def randomized(views, held_out):
    drawn = [modules.init_fourier_features(key, 32, FEATURES, bandwidth=BANDWIDTH) for key in (0, 1)]
    features = [modules.fourier_features(waves, view) for waves, view in zip(drawn, views, strict=True)]
    found = modules.linear_cca(*features, ridge=FEATURES * RIDGE, num_components=8)
    pairs = zip(held_out, drawn, found[:2], strict=True)
    return [modules.fourier_features(waves, x) @ maps for x, waves, maps in pairs]


def linear(views, held_out):
    found = modules.linear_cca(*views, num_components=8)
    return [x @ maps for x, maps in zip(held_out, found[:2], strict=True)]


def test_unseen_halves_are_more_correlated_than_by_linear_maps():
    views = [digits.train()["x"][:500, half] for half in (slice(32), slice(32, None))]
    held_out = [digits.held_out()["x"][:, half] for half in (slice(32), slice(32, None))]
    scores = {f.__name__: correlation(*digits.run(f, views, held_out)) for f in (recipe, randomized, linear)}
    assert scores["recipe"] > scores["linear"] + 0.3
    assert scores["randomized"] > scores["linear"] + 0.1


def correlation(first, second):
    """Return the sum of the correlations of two projected views."""
    return sum(np.corrcoef(a, b)[0, 1] for a, b in zip(jnp.transpose(first), jnp.transpose(second), strict=True))
