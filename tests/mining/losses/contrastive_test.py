"""Values by loops over anchors, pair weights by the closed forms of general pair weighting."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import logsumexp, softmax

from minibatch_jax import mining

T = 0.2


def pairs(seed=0, rows=7, columns=9):
    """Anchor 0 has no positive, anchor 1 no negative, anchor 2 neither; some pairs are neither."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.05, 0.95, (rows, columns))
    kind = rng.integers(0, 4, (rows, columns))
    positives, negatives = kind < 2, kind == 2
    positives[[0, 2]], negatives[[1, 2]] = False, False
    return values, positives, negatives


def contrastive(s, p, n):
    d_p, d_n = s[p], s[n]
    weights = np.zeros_like(s)
    weights[p], weights[n] = d_p > 0.3, -1.0 * (d_n < 0.7)
    return np.maximum(d_p - 0.3, 0).sum() + np.maximum(0.7 - d_n, 0).sum(), weights


def multi_similarity(s, p, n, a=2.0, b=10.0, base=0.5):
    weights = np.zeros_like(s)
    e_p, e_n = np.exp(-a * (s[p] - base)), np.exp(b * (s[n] - base))
    weights[p], weights[n] = -e_p / (1 + e_p.sum()), e_n / (1 + e_n.sum())
    return np.log(1 + e_p.sum()) / a + np.log(1 + e_n.sum()) / b, weights


def info_nce(s, p, n):
    weights = np.zeros_like(s)
    if not p.any():
        return 0.0, weights
    every = p | n
    weights[every] = softmax(s[every] / T) / T
    weights[p] -= softmax(s[p] / T) / T
    return logsumexp(s[every] / T) - logsumexp(s[p] / T), weights


def ntxent(s, p, n):
    value, weights = 0.0, np.zeros_like(s)
    if not n.any():
        return value, weights
    rest = logsumexp(s[n] / T)
    for j in np.flatnonzero(p):
        mine = np.exp(s[j] / T - np.logaddexp(s[j] / T, rest))
        value -= np.log(mine)
        weights[j] += (mine - 1) / T
        weights[n] += (1 - mine) * softmax(s[n] / T) / T
    return value, weights


def supcon(s, p, n):
    weights = np.zeros_like(s)
    if not p.any():
        return 0.0, weights
    every = p | n
    log_probability = s / T - logsumexp(s[every] / T)
    weights[every] = np.exp(log_probability[every]) / T
    weights[p] -= 1 / p.sum() / T
    return -log_probability[p].mean(), weights


LOSSES = {
    "contrastive": (
        functools.partial(mining.contrastive_loss, positive_margin=0.3, negative_margin=0.7),
        contrastive,
    ),
    "multi_similarity": (functools.partial(mining.multi_similarity_loss, beta=10.0), multi_similarity),
    "info_nce": (functools.partial(mining.info_nce_loss, temperature=T), info_nce),
    "ntxent": (functools.partial(mining.ntxent_loss, temperature=T), ntxent),
    "supcon": (functools.partial(mining.supcon_loss, temperature=T), supcon),
}
each_loss = pytest.mark.parametrize("loss,oracle", LOSSES.values(), ids=LOSSES)


@each_loss
def test_value_and_pair_weights_equal_the_closed_form(loss, oracle):
    s, p, n = pairs()
    values, weights = zip(*(oracle(*row) for row in zip(s, p, n)))
    arguments = jnp.asarray(s.astype(np.float32)), jnp.asarray(p), jnp.asarray(n)
    value, actual = jax.jit(jax.value_and_grad(functools.partial(loss, reduction="sum")))(*arguments)
    np.testing.assert_allclose(value, np.sum(values), rtol=1e-5)
    np.testing.assert_allclose(actual, np.stack(weights), rtol=1e-4, atol=1e-6)
    assert np.all(actual[2] == 0)


@each_loss
def test_gradients(loss, oracle):
    del oracle
    with jax.enable_x64(True):
        s, p, n = (jnp.asarray(x) for x in pairs(1))
        check_grads(jax.jit(lambda s: loss(s, p, n)), (s,), order=1, eps=1e-5)


@each_loss
def test_what_is_not_masked_does_not_matter(loss, oracle):
    del oracle
    s, p, n = (jnp.asarray(x) for x in pairs(2))
    step = jax.jit(jax.value_and_grad(loss))
    expected = step(s, p, n)
    for fill in (jnp.nan, jnp.inf, -1e6):
        jax.tree.map(np.testing.assert_array_equal, step(jnp.where(p | n, s, fill), p, n), expected)
    empty = jnp.zeros((3, s.shape[1]), bool)
    padded = step(jnp.pad(s, ((0, 3), (0, 0))), jnp.concatenate([p, empty]), jnp.concatenate([n, empty]))
    np.testing.assert_allclose(padded[0], expected[0], rtol=1e-6)


@each_loss
def test_no_pairs_is_zero_not_nan(loss, oracle):
    del oracle
    nothing = jnp.zeros((3, 4), bool)
    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.ones((3, 4)), nothing, nothing)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@each_loss
def test_extreme_similarities_stay_finite(loss, oracle):
    del oracle
    _, p, n = (jnp.asarray(x) for x in pairs(3))
    sign = jnp.where(p, -1.0, 1.0)
    step = jax.jit(jax.value_and_grad(loss))
    for scale in (1e4, -1e4):
        value, gradient = step(scale * sign, p, n)
        assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_softmax_losses_push_as_much_as_they_pull():
    s, p, n = (jnp.asarray(x) for x in pairs(4))
    for name in ("info_nce", "ntxent", "supcon"):
        np.testing.assert_allclose(jax.jit(jax.grad(LOSSES[name][0]))(s, p, n).sum(axis=1), 0, atol=1e-5)


def test_with_one_positive_the_softmax_losses_agree():
    s, _, n = pairs(5)
    p = np.zeros_like(n)
    p[np.arange(7), np.argmin(n, axis=1)] = True
    arguments = jnp.asarray(s), jnp.asarray(p), jnp.asarray(n & ~p)
    values = [jax.jit(LOSSES[name][0])(*arguments) for name in ("info_nce", "ntxent", "supcon")]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_temperature_is_differentiable():
    s, p, n = (jnp.asarray(x) for x in pairs(6))
    with jax.enable_x64(True):
        loss = jax.jit(lambda t: mining.info_nce_loss(s.astype(jnp.float64), p, n, temperature=t))
        check_grads(loss, (jnp.asarray(0.3, jnp.float64),), order=1)


@pytest.mark.parametrize("reduction", ["mean", "active_mean", "anchor_mean", "sum", "anchors", "none"])
def test_reductions_equal_lists(reduction):
    losses = jnp.array([[1.0, 0.0, 3.0, jnp.nan], [5.0, jnp.inf, jnp.nan, 1.0], [1.0, 1.0, 1.0, 1.0]])
    valid = jnp.array([[True, True, True, False], [True, False, False, False], [False] * 4])
    expected = {
        "mean": 9 / 4,
        "active_mean": 3,
        "anchor_mean": (4 / 3 + 5) / 2,
        "sum": 9,
        "anchors": [4 / 3, 5, 0],
        "none": [[1, 0, 3, 0], [5, 0, 0, 0], [0, 0, 0, 0]],
    }[reduction]
    np.testing.assert_allclose(mining.reduce_losses(losses, valid, reduction), expected, rtol=1e-6)
    assert np.all(np.isfinite(jax.grad(lambda x: mining.reduce_losses(x, valid, reduction).sum())(losses)))


def test_bad_input_is_named():
    s, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match="temperature is 0, wanted a number in"):
        mining.supcon_loss(s, mask, mask, temperature=0)
    with pytest.raises(ValueError, match="alpha is -1"):
        mining.multi_similarity_loss(s, mask, mask, alpha=-1)
    with pytest.raises(ValueError, match="reduction is 'avg', wanted one of"):
        mining.contrastive_loss(s, mask, mask, reduction="avg")
    with pytest.raises(ValueError, match=r"negatives has shape \[3, 2\]"):
        mining.ntxent_loss(s, mask, mask.T)
    with pytest.raises(TypeError, match="similarities has dtype int32"):
        mining.info_nce_loss(jnp.ones((2, 3), jnp.int32), mask, mask)


@each_loss
@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
def test_a_pair_that_is_not_finite_leaves_the_masks(loss, oracle, fill):
    del oracle
    s, p, n = pairs(7)
    bad = np.random.default_rng(8).random(s.shape) < 0.2
    assert np.any(bad & p) and np.any(bad & n)
    step = jax.jit(jax.value_and_grad(loss))
    spoilt = step(jnp.where(bad, fill, s), jnp.asarray(p), jnp.asarray(n))
    clean = step(jnp.asarray(s), jnp.asarray(p & ~bad), jnp.asarray(n & ~bad))
    np.testing.assert_allclose(spoilt[0], clean[0], rtol=1e-6)
    np.testing.assert_allclose(spoilt[1], clean[1], rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(spoilt[1][bad], 0)
