"""Losses of angles equal loops and means; single pairs accumulate to the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import mining
from tests.mining import catalog
from tests.mining.losses.drawn import pairs


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
    q, d = (mining.normalize_embeddings(jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)) for _ in range(2))
    positive = jnp.asarray(rng.random((6, 1)) < 0.5)
    theta = jnp.eye(4) + 0.1 * jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)

    def loss(theta, q, d, p, pair_loss=mining.orthogonal_pair_loss):
        return pair_loss(jnp.sum(mining.normalize_embeddings(q @ theta) * d, axis=1)[:, None], p, ~p)

    whole = jax.grad(loss)(theta, q, d, positive)
    one = jax.jit(jax.grad(loss))
    parts = sum(one(theta, q[i : i + 1], d[i : i + 1], positive[i : i + 1]) for i in range(6)) / 6
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)
    alone = jnp.array([[True]])
    assert mining.info_nce_loss(q[:1] @ d[:1].T, alone, ~alone) == 0
    np.testing.assert_array_equal(jax.grad(mining.info_nce_loss)(q[:1] @ d[:1].T, alone, ~alone), 0)


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


@pytest.mark.parametrize("angle", [0.3, 0.698, 1.3, 1.5, 1.56])
@pytest.mark.parametrize("spread", [1.0, 30.0])
def test_every_angle_and_spread_equals_the_sum_over_triangles(angle, spread):
    s = np.random.default_rng(5).uniform(-spread, spread, (6, 6))
    p, n = (np.asarray(mask) for mask in catalog.all_pairs(np.arange(6) % 3))
    t, expected = np.tan(angle) ** 2, []
    for a, b in np.argwhere(p):
        exponents = 4 * t * (s[a] + s[b])[n[a]] - 2 * (1 + t) * s[a, b]
        expected.append(np.logaddexp.reduce([0, *exponents]))
    loss = jax.jit(lambda x: mining.angular_loss(x, p, n, angle=angle))
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(s, jnp.float32))
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-4)
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


def test_another_view_needs_its_own_similarities():
    labels = jnp.array([0, 1, 0])
    masks = mining.positive_mask(labels, labels), mining.negative_mask(labels, labels)
    s = mining.cosine_similarity(jnp.eye(3))
    with pytest.raises(ValueError, match="reference_similarities is not given and a pair on the diagonal"):
        mining.angular_loss(s, *masks)
    assert np.isnan(jax.jit(mining.angular_loss)(s, *masks))
    assert np.isfinite(mining.angular_loss(s, *masks, reference_similarities=s))
    with pytest.raises(ValueError, match="reference_distances is not given and a pair on the diagonal"):
        mining.angular_triplet_weights(1 - s, *masks)
    miner, signals = mining.mine_angular(), {"distances": 1 - s, "labels": labels, "reference_labels": labels}
    with pytest.raises(ValueError, match="reference_distances is not given and a pair on the diagonal"):
        miner.update(jnp.ones((3, 3)), miner.init(jnp.ones((3, 3))), **signals)
    np.testing.assert_array_equal(jax.jit(miner.update)(jnp.ones((3, 3)), (), **signals)[0], 0)
