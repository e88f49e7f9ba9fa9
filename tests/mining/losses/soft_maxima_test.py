"""The circle loss weighs pairs as its closed form does."""

import functools

import jax
import numpy as np
from scipy.special import expit

from minibatch_jax import mining
from tests.mining.losses.drawn import pairs


def test_circle_weights_equal_the_closed_form():
    s, p, n = (np.asarray(x) for x in pairs(3))
    weights = np.zeros_like(s)
    for i in range(len(s)):
        if p[i].any() and n[i].any():
            pace_p, pace_n = 1.4 - s[i][p[i]], s[i][n[i]] + 0.4
            e_p, e_n = np.exp(-8 * pace_p * (s[i][p[i]] - 0.6)), np.exp(8 * pace_n * (s[i][n[i]] - 0.4))
            on = expit(np.log(e_p.sum()) + np.log(e_n.sum()))
            weights[i][p[i]] = -8 * pace_p * e_p / e_p.sum() * on
            weights[i][n[i]] = 8 * pace_n * e_n / e_n.sum() * on
    actual = jax.jit(jax.grad(functools.partial(mining.circle_loss, scale=8.0, reduction="sum")))(s, p, n)
    np.testing.assert_allclose(actual, weights, rtol=1e-4, atol=1e-6)
