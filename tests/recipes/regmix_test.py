"""Choose the mixture that RegMix's regression predicts to be best for one domain.

Method: RegMix
"""

import functools

import jax.numpy as jnp
import numpy as np

from minibatch_jax import mixing
from tests.recipes import digits, small_runs


def recipe(train, prior):
    drawn = mixing.sample_mixtures(0, prior, 32)
    losses = train(drawn.mixtures)
    fitted = mixing.fit_regression(drawn.mixtures, losses, features="quadratic", ridge=0.01)
    predict = functools.partial(mixing.predict_regression, fitted)
    return mixing.average_of_top(predict, 1, prior, num_draws=4096, num_averaged=32)


def test_the_mixture_is_better_than_the_prior():
    prior = jnp.array([0.6, 0.3, 0.1])
    found = np.asarray(digits.run(recipe, small_runs.loss_of_domain(2), prior))
    losses = small_runs.loss_of_domain(2)(jnp.stack([jnp.asarray(found), prior]))
    assert abs(found.sum() - 1) < 1e-5 and found[2] > 0.5 and losses[0] < losses[1] - 0.05
