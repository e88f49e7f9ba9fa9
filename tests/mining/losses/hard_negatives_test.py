"""The loss of hard and debiased negatives equals the published formula and the losses that it contains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from tests.mining.losses.drawn import pairs


def reference_hard_negative_loss(positive, negatives, t, beta, tau):
    """One anchor with one positive, as published: not in logarithms."""
    pos, neg = np.exp(positive / t), np.exp(negatives / t)
    importance = neg**beta
    reweighted = (importance * neg).sum() / importance.mean()
    rest = max((reweighted - tau * len(neg) * pos) / (1 - tau), len(neg) * np.exp(-1 / t))
    return -np.log(pos / (pos + rest))


@pytest.mark.parametrize("t,beta,tau", [(0.5, 1.0, 0.1), (0.2, 0.0, 0.1), (0.5, 2.0, 0.0), (0.1, 1.0, 0.4)])
def test_hard_negative_loss_equals_the_published_formula(t, beta, tau):
    rng = np.random.default_rng(5)
    s = rng.uniform(-1, 1, (6, 9))
    positives = np.arange(9)[None] == np.arange(6)[:, None]
    negatives = ~positives & (np.arange(9) != 8)
    expected = [
        reference_hard_negative_loss(row[p][0], row[n], t, beta, tau) for row, p, n in zip(s, positives, negatives)
    ]
    masks = jnp.asarray(positives), jnp.asarray(negatives)
    for constant in (False, True):
        actual = mining.hard_negative_loss(
            jnp.asarray(s, jnp.float32),
            *masks,
            temperature=t,
            concentration=beta,
            prior=tau,
            constant_importance=constant,
        )
        np.testing.assert_allclose(actual, np.mean(expected), rtol=1e-5)


def test_without_importance_and_prior_it_is_ntxent():
    s, p, n = pairs(6)
    plain = mining.hard_negative_loss(s, p, n, concentration=0, prior=0, temperature=0.3)
    np.testing.assert_allclose(plain, mining.ntxent_loss(s, p, n, temperature=0.3), rtol=1e-5)


def test_constant_importance_is_a_softmax_of_the_negatives():
    s, n = jnp.asarray([[0.3, 0.1, -0.4, 0.8]]), jnp.array([[False, True, True, True]])
    loss = functools.partial(mining.hard_negative_loss, prior=0, concentration=1.0, constant_importance=True)
    weights = jax.grad(loss)(s, ~n, n)[0, 1:]
    np.testing.assert_allclose(weights / weights.sum(), jax.nn.softmax(2 * s[0, 1:] / 0.5), rtol=1e-5)
