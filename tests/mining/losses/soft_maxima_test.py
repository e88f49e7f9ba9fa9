"""The circle loss weighs pairs as its closed form does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


def lifted_structure_of_pairs(d, positives, negatives):
    """The mean over the positive pairs, each end against its own negatives: row of the anchor, column of the other."""
    losses = []
    for a, p in np.argwhere(positives):
        push = np.exp(1 - d[a][negatives[a]]).sum() + np.exp(1 - d[:, p][negatives[:, p]]).sum()
        losses.append(max(d[a, p] + np.log(push), 0) ** 2 / 2)
    return np.mean(losses)


@pytest.mark.parametrize("seed", range(3))
def test_lifted_structure_of_two_views_is_that_of_both_in_one_matrix(seed):
    x, y = np.random.default_rng(seed).normal(size=(2, 6, 3)).astype(np.float32)
    labels = jnp.array([0, 1, 2, 0, 1, 2])
    across = mining.positive_mask(labels, labels), mining.negative_mask(labels, labels)
    distances = mining.euclidean_distances(x, y)
    actual = jax.jit(mining.lifted_structure_loss)(distances, *across)
    expected = lifted_structure_of_pairs(np.asarray(distances), *map(np.asarray, across))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    both = mining.euclidean_distances(jnp.concatenate([x, y]))
    in_one = [jnp.block([[jnp.zeros_like(mask), mask], [mask.T, jnp.zeros_like(mask)]]) for mask in across]
    np.testing.assert_allclose(actual, mining.lifted_structure_loss(both, *in_one), rtol=1e-5)


def test_lifted_structure_of_other_references_takes_the_column_of_the_reference():
    rng = np.random.default_rng(5)
    d, kind = rng.uniform(0.1, 2, (6, 9)).astype(np.float32), rng.integers(0, 3, (6, 9))
    masks = kind == 0, kind == 1
    actual = jax.jit(mining.lifted_structure_loss)(jnp.asarray(d), *map(jnp.asarray, masks))
    np.testing.assert_allclose(actual, lifted_structure_of_pairs(d, *masks), rtol=1e-5)


def test_lifted_structure_of_one_set_takes_the_rows_of_both_ends():
    d, p, n = (np.array(x) for x in pairs(2))
    expected = []
    for a, b in np.argwhere(p):
        push = np.exp(1 - d[a][n[a]]).sum() + np.exp(1 - d[b][n[b]]).sum()
        expected.append(max(d[a, b] + np.log(push), 0) ** 2 / 2 if push > 0 else 0)
    np.testing.assert_allclose(mining.lifted_structure_loss(*map(jnp.asarray, (d, p, n))), np.mean(expected), rtol=1e-5)
