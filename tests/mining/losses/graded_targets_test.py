"""Losses with a graded target for each pair, against numpy and against hard labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from minibatch_jax.mining import info_nce_loss, similarity_regression_loss
from tests.mining.losses.drawn import pairs


def soft_targets(seed, mask):
    drawn = np.random.default_rng(seed).uniform(size=mask.shape) * mask
    return (drawn / np.maximum(drawn.sum(1, keepdims=True), 1e-9)).astype(np.float32)


@jax.jit
def graded(s, p, n, q):
    return jax.value_and_grad(lambda s: info_nce_loss(s, p, n, temperature=0.3, targets=q))(s)


def test_graded_info_nce_is_the_cross_entropy_over_the_pairs_of_an_anchor():
    s, p, n = map(np.asarray, pairs())
    q = soft_targets(0, p | n)
    value, gradient = graded(s, p, n, q)
    losses, slopes = [], np.zeros_like(s)
    for i, told in enumerate(p | n):
        if told.any():
            log_shares = log_softmax(s[i, told] / 0.3)
            losses.append(-np.sum(q[i, told] * log_shares))
            slopes[i, told] = (np.exp(log_shares) - q[i, told]) / 0.3
    np.testing.assert_allclose(value, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(gradient, slopes / len(losses), rtol=1e-4, atol=1e-6)


def test_one_hot_targets_are_hard_labels():
    s, p, n = pairs(1)
    one = p & (jnp.cumsum(p, axis=1) == 1)
    n |= p & ~one
    targets = one.astype(jnp.float32)
    expected = jax.value_and_grad(lambda s: info_nce_loss(s, one, n, temperature=0.3))(s)
    found = graded(s, one, n, targets)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)


def test_what_is_ignored_may_hold_anything():
    s, p, n = pairs(2)
    q = jnp.asarray(soft_targets(2, np.asarray(p | n)))
    expected = graded(s, p, n, q)
    for fill in (jnp.nan, jnp.inf, 5.0):
        found = graded(jnp.where(p | n, s, fill), p, n, jnp.where(p | n, q, fill))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-7)


def test_regression_is_the_mean_squared_error_of_the_pairs_that_count():
    s, p, n = map(np.asarray, pairs(3))
    wanted = np.random.default_rng(3).uniform(size=s.shape).astype(np.float32)
    wanted[1, 1] = np.nan
    told = (p | n) & np.isfinite(wanted)
    loss = lambda s, q: similarity_regression_loss(s, p, n, targets=q)  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(s, wanted)
    np.testing.assert_allclose(value, np.mean((s - wanted)[told] ** 2), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.where(told, 2 * (s - wanted) / told.sum(), 0), rtol=1e-4, atol=1e-6)
    plain = similarity_regression_loss(s, p, n)
    np.testing.assert_allclose(plain, np.mean(((s - p) ** 2)[p | n]), rtol=1e-5)


def test_targets_that_do_not_fit_are_named():
    s, p, n = pairs()
    halves = jnp.full(s.shape, 0.5 / s.shape[1])
    with pytest.raises(ValueError, match=r"targets has the sum 0\.5 in row 0, wanted 1"):
        info_nce_loss(s, p, n, targets=halves)
    with pytest.raises(ValueError, match=r"targets has the sum nan in row 0"):
        info_nce_loss(s, p, n, targets=halves * jnp.nan)
    with pytest.raises(ValueError, match=r"targets has shape \[2\]"):
        similarity_regression_loss(s, p, n, targets=jnp.ones(2))
    with pytest.raises(TypeError, match="targets has dtype int32"):
        info_nce_loss(s, p, n, targets=p.astype(int))
