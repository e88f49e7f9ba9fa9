"""Losses of margins equal loops and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from minibatch_jax import mining
from tests.mining.losses.drawn import pairs


def test_binomial_deviance_equals_the_closed_form():
    s, p, n = (np.asarray(x) for x in pairs(2))
    value, weights = 0.0, np.zeros_like(s)
    for i in range(len(s)):
        if p[i].any():
            value += np.log1p(np.exp(2 * (0.5 - s[i][p[i]]))).mean()
            weights[i][p[i]] = -2 * expit(2 * (0.5 - s[i][p[i]])) / p[i].sum()
        if n[i].any():
            value += np.log1p(np.exp(50 * (s[i][n[i]] - 0.5))).mean()
            weights[i][n[i]] = 50 * expit(50 * (s[i][n[i]] - 0.5)) / n[i].sum()
    loss = functools.partial(mining.binomial_deviance_loss, reduction="sum")
    actual = jax.jit(jax.value_and_grad(loss))(s, p, n)
    np.testing.assert_allclose(actual[0], value, rtol=1e-5)
    np.testing.assert_allclose(actual[1], weights, rtol=1e-4, atol=1e-6)


def test_margin_loss_equals_loops_and_learns_its_boundary():
    d, p, n = (np.asarray(x) for x in pairs(4))
    terms = np.concatenate([np.maximum(d[p] - 0.5 + 0.2, 0), np.maximum(0.5 - d[n] + 0.2, 0)])
    loss = lambda b: mining.margin_loss(*map(jnp.asarray, (d, p, n)), boundary=b)  # noqa: E731
    value, slope = jax.value_and_grad(loss)(0.5)
    np.testing.assert_allclose(value, terms[terms > 0].mean(), rtol=1e-5)
    active = (np.sum(0.5 - d[n] + 0.2 > 0) - np.sum(d[p] - 0.5 + 0.2 > 0)) / np.sum(terms > 0)
    np.testing.assert_allclose(slope, active, rtol=1e-5)
