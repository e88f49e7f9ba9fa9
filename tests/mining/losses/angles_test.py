"""Losses of angles equal loops and means; single pairs accumulate to the batch."""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax import mining
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
