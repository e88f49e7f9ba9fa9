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


def test_sigmoid_loss_equals_the_closed_form_and_its_slopes():
    s, p, n = (np.asarray(x) for x in pairs(5))
    scale, bias = np.float32(7), np.float32(-3)
    y = np.where(p, 1.0, -1.0) * (p | n)
    logits = np.float64(scale) * s + bias
    wanted = -np.sum(np.where(y != 0, np.log(expit(y * logits)), 0), axis=1)
    slopes = -y * expit(-y * logits)
    loss = lambda s, scale, bias: mining.sigmoid_loss(s, p, n, scale=scale, bias=bias, reduction="sum")  # noqa: E731
    value, found = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(s, scale, bias)
    np.testing.assert_allclose(value, wanted.sum(), rtol=1e-5)
    for actual, expected in zip(found, (scale * slopes, np.sum(slopes * s), np.sum(slopes))):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    rows = mining.sigmoid_loss(s, p, n, scale=scale, bias=bias, reduction="none")
    np.testing.assert_allclose(rows, wanted, rtol=1e-5)
    mean = mining.sigmoid_loss(s, p, n, scale=scale, bias=bias)
    np.testing.assert_allclose(mean, wanted[(p | n).any(axis=1)].mean(), rtol=1e-5)


def test_margin_loss_equals_loops_and_learns_its_boundary():
    d, p, n = (np.asarray(x) for x in pairs(4))
    terms = np.concatenate([np.maximum(d[p] - 0.5 + 0.2, 0), np.maximum(0.5 - d[n] + 0.2, 0)])
    loss = lambda b: mining.margin_loss(*map(jnp.asarray, (d, p, n)), boundary=b)  # noqa: E731
    value, slope = jax.value_and_grad(loss)(0.5)
    np.testing.assert_allclose(value, terms[terms > 0].mean(), rtol=1e-5)
    active = (np.sum(0.5 - d[n] + 0.2 > 0) - np.sum(d[p] - 0.5 + 0.2 > 0)) / np.sum(terms > 0)
    np.testing.assert_allclose(slope, active, rtol=1e-5)
