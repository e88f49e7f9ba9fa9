"""Losses beyond those of losses_test: what pytorch-metric-learning does not hold, and the law for all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import expit, softmax

from minibatch_jax import mining

LOSSES = {
    "angular": mining.angular_loss,
    "binomial_deviance": mining.binomial_deviance_loss,
    "circle": functools.partial(mining.circle_loss, scale=8.0),
    "fast_ap": mining.fast_ap_loss,
    "generalized_lifted_structure": mining.generalized_lifted_structure_loss,
    "hard_negative": mining.hard_negative_loss,
    "histogram": mining.histogram_loss,
    "intra_pair_variance": mining.intra_pair_variance_loss,
    "lifted_structure": mining.lifted_structure_loss,
    "margin": functools.partial(mining.margin_loss, boundary=0.5),
    "orthogonal_pair": mining.orthogonal_pair_loss,
    "orthogonal_projection": mining.orthogonal_projection_loss,
    "pnp": functools.partial(mining.pnp_loss, temperature=0.1),
    "ranked_list": functools.partial(mining.ranked_list_loss, boundary=0.8, margin=0.6),
    "smooth_ap": functools.partial(mining.smooth_ap_loss, temperature=0.1),
    "threshold_consistent": mining.threshold_consistent_loss,
    "tuplet_margin": functools.partial(mining.tuplet_margin_loss, scale=8.0),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def pairs(seed=0, size=8):
    """Square; anchor 0 has no positive, anchor 1 no negative, anchor 2 neither, some pairs are neither."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.05, 0.95, (size, size))
    kind = rng.integers(0, 4, (size, size))
    np.fill_diagonal(kind, 3)
    positives, negatives = kind < 2, kind == 2
    positives[[0, 2]], negatives[[1, 2]] = False, False
    return jnp.asarray(values, jnp.float32), jnp.asarray(positives), jnp.asarray(negatives)


@each_loss
def test_only_masked_pairs_matter_and_none_is_zero(loss):
    s, p, n = pairs()
    step = jax.jit(jax.value_and_grad(loss))
    expected = step(s, p, n)
    assert expected[0] > 0 and np.all(np.isfinite(expected[1]))
    if loss is not mining.angular_loss:  # which compares positives with the negatives of the anchor
        np.testing.assert_array_equal(jnp.where(p | n, 0, expected[1]), 0)
        for fill in (jnp.nan, 0.7):
            filled = step(jnp.where(p | n, s, fill), p, n)
            np.testing.assert_allclose(filled[0], expected[0], rtol=1e-6)
            np.testing.assert_allclose(filled[1], expected[1], rtol=1e-5, atol=1e-6)
        bad = jnp.asarray(np.random.default_rng(1).random(s.shape) < 0.2)
        spoilt, clean = step(jnp.where(bad, jnp.nan, s), p, n), step(s, p & ~bad, n & ~bad)
        np.testing.assert_allclose(spoilt[0], clean[0], rtol=1e-6)
        np.testing.assert_allclose(spoilt[1], clean[1], rtol=1e-5, atol=1e-6)
    nothing = jnp.zeros_like(p)
    value, gradient = step(s, nothing, nothing)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("circle", "angular")])
def test_gradients(name):
    s, p, n = pairs(1)
    with jax.enable_x64(True):
        check_grads(
            jax.jit(lambda s: LOSSES[name](s, p, n)), (s.astype(jnp.float64),), order=1, modes=["rev"], eps=1e-6
        )


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
    actual = jax.jit(jax.grad(functools.partial(LOSSES["circle"], reduction="sum")))(s, p, n)
    np.testing.assert_allclose(actual, weights, rtol=1e-4, atol=1e-6)


def test_margin_loss_equals_loops_and_learns_its_boundary():
    d, p, n = (np.asarray(x) for x in pairs(4))
    terms = np.concatenate([np.maximum(d[p] - 0.5 + 0.2, 0), np.maximum(0.5 - d[n] + 0.2, 0)])
    loss = lambda b: mining.margin_loss(*map(jnp.asarray, (d, p, n)), boundary=b)  # noqa: E731
    value, slope = jax.jit(jax.value_and_grad(loss))(0.5)
    np.testing.assert_allclose(value, terms[terms > 0].mean(), rtol=1e-5)
    active = (np.sum(0.5 - d[n] + 0.2 > 0) - np.sum(d[p] - 0.5 + 0.2 > 0)) / np.sum(terms > 0)
    np.testing.assert_allclose(slope, active, rtol=1e-5)


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
        loss = functools.partial(
            mining.hard_negative_loss, temperature=t, concentration=beta, prior=tau, constant_importance=constant
        )
        actual = jax.jit(loss)(jnp.asarray(s, jnp.float32), *masks)
        np.testing.assert_allclose(actual, np.mean(expected), rtol=1e-5)


def test_without_importance_and_prior_it_is_ntxent():
    s, p, n = pairs(6)
    plain = mining.hard_negative_loss(s, p, n, concentration=0, prior=0, temperature=0.3)
    np.testing.assert_allclose(plain, mining.ntxent_loss(s, p, n, temperature=0.3), rtol=1e-5)


def test_constant_importance_is_a_softmax_of_the_negatives():
    s, n = jnp.asarray([[0.3, 0.1, -0.4, 0.8]]), jnp.array([[False, True, True, True]])
    loss = functools.partial(mining.hard_negative_loss, prior=0, concentration=1.0, constant_importance=True)
    weights = np.asarray(jax.jit(jax.grad(loss))(s, ~n, n))[0, 1:]
    np.testing.assert_allclose(weights / weights.sum(), softmax(2 * np.asarray(s)[0, 1:] / 0.5), rtol=1e-5)


def test_angular_loss_against_other_references_equals_loops():
    rng = np.random.default_rng(7)
    x, r = (rng.normal(size=(rows, 3)) for rows in (5, 7))
    x, r = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, r))
    y, z = rng.integers(0, 3, 5), rng.integers(0, 3, 7)
    t, terms = np.tan(0.6) ** 2, []
    for a in range(5):
        for b in np.flatnonzero(z == y[a]):
            inner = [
                np.exp(4 * t * (x[a] + r[b]) @ r[c] - 2 * (1 + t) * x[a] @ r[b]) for c in np.flatnonzero(z != y[a])
            ]
            terms.append(np.log1p(np.sum(inner)))
    masks = [m(jnp.asarray(y), jnp.asarray(z)) for m in (mining.positive_mask, mining.negative_mask)]
    s, among = (jnp.asarray(v, jnp.float32) for v in (x @ r.T, r @ r.T))
    actual = mining.angular_loss(s, *masks, reference_similarities=among, angle=0.6)
    np.testing.assert_allclose(actual, np.mean(terms), rtol=1e-5)


def test_single_pairs_accumulate_to_the_batch_where_info_nce_learns_nothing():
    rng = np.random.default_rng(10)
    q, d = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 6, 4)).astype(np.float32))
    positive = rng.random((6, 1)) < 0.5
    theta = (np.eye(4) + 0.1 * rng.normal(size=(4, 4))).astype(np.float32)

    def loss(theta, q, d, p, pair_loss=mining.orthogonal_pair_loss):
        return pair_loss(jnp.sum(mining.normalize_embeddings(q @ theta) * d, axis=1)[:, None], p, ~p)

    one = jax.jit(jax.grad(loss))
    whole = one(theta, q, d, positive)
    parts = np.mean([one(theta, q[i : i + 1], d[i : i + 1], positive[i : i + 1]) for i in range(6)], axis=0)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)
    alone = np.array([[True]])
    value, slope = jax.jit(jax.value_and_grad(mining.info_nce_loss))(q[:1] @ d[:1].T, alone, ~alone)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)


def test_orthogonal_losses_equal_means_and_vanish_on_orthonormal_classes():
    s, p, n = (np.asarray(x) for x in pairs(11))
    signed = jnp.asarray(np.where(n, -s, s))
    expected = np.concatenate([(1 - s[p]) ** 2, s[n] ** 2]).mean()
    np.testing.assert_allclose(mining.orthogonal_pair_loss(signed, p, n), expected, rtol=1e-5)
    expected = np.concatenate([1 - s[p], s[n]]).mean()
    np.testing.assert_allclose(mining.orthogonal_pair_loss(signed, p, n, power=1), expected, rtol=1e-5)
    expected = (1 - s[p]).mean() + 0.5 * s[n].mean()
    np.testing.assert_allclose(mining.orthogonal_projection_loss(signed, p, n), expected, rtol=1e-5)
    labels = jnp.arange(6) // 2
    masks = mining.positive_mask(labels), mining.negative_mask(labels)
    for loss in (mining.orthogonal_pair_loss, mining.orthogonal_projection_loss):
        assert loss(mining.cosine_similarity(jax.nn.one_hot(labels, 3)), *masks) == 0


def test_sharp_smooth_ap_is_one_minus_average_precision():
    from sklearn.metrics import average_precision_score

    s, p, _ = (np.asarray(x) for x in pairs(8))
    rows = p.any(axis=1)
    expected = 1 - np.mean([average_precision_score(a, b) for a, b in zip(p[rows], s[rows])])
    actual = mining.smooth_ap_loss(*map(jnp.asarray, (s, p, ~p)), temperature=1e-4)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_noise_ratio_distances_equal_variances():
    rng = np.random.default_rng(9)
    x, r = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    expected = [[np.var(a - b) / np.var(a) for b in r] for a in x]
    np.testing.assert_allclose(mining.noise_ratio_distances(jnp.asarray(x), jnp.asarray(r)), expected, rtol=1e-4)


def test_bad_input_is_named():
    s, mask = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"distances has shape \[2, 3\], wanted \[any size > 0, 2\]"):
        mining.lifted_structure_loss(s, mask, mask)
    with pytest.raises(ValueError, match="angle is 2"):
        mining.angular_loss(s[:, :2], mask[:, :2], mask[:, :2], angle=2.0)
    with pytest.raises(ValueError, match=r"reference_similarities has shape \[2, 3\]"):
        mining.angular_loss(s, mask, mask)
    with pytest.raises(ValueError, match="penalty is 'O', wanted one of"):
        mining.pnp_loss(s, mask, mask, penalty="O")
    with pytest.raises(ValueError, match="power is 3, wanted 1 or 2"):
        mining.orthogonal_pair_loss(s, mask, mask, power=3)
    with pytest.raises(ValueError, match="prior is 1"):
        mining.hard_negative_loss(s, mask, mask, prior=1)
    with pytest.raises(ValueError, match="num_bins is 0"):
        mining.fast_ap_loss(s, mask, mask, num_bins=0)
    with pytest.raises(ValueError, match="scale is 0"):
        mining.circle_loss(s, mask, mask, scale=0)
    with pytest.raises(ValueError, match="imbalance is 2"):
        mining.ranked_list_loss(s, mask, mask, imbalance=2)
    with pytest.raises(TypeError, match="counted has dtype float32|positives has dtype float32"):
        mining.losses.ranking.soft_ranks(s, s)
