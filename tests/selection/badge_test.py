import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import chisquare

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_by_badge": Case(lambda: selection.keep_by_badge(5, key=0), draws.predicted_features),
}


N, DRAWS = 6, 4000
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(N, 3)).astype(np.float32)
FEATURES = RNG.normal(size=(N, 2)).astype(np.float32)


def gradients(logits, features):
    """The gradients as rows, in float64."""
    p = softmax(logits.astype(np.float64), axis=1)
    residuals = p - np.eye(p.shape[1])[p.argmax(1)]
    return (residuals[:, :, None] * features[:, None].astype(np.float64)).reshape(len(p), -1)


@functools.partial(jax.jit, static_argnames="k")
def many(logits, features, where, k):
    draw = lambda key: selection.badge_indices(key, logits, features, k, where=where)  # noqa: E731
    return jax.vmap(draw)(jax.random.split(jax.random.key(1), DRAWS))


def drawn(logits, features, k, where=None):
    where = jnp.ones(len(logits), bool) if where is None else jnp.asarray(where)
    return np.asarray(many(jnp.asarray(logits), jnp.asarray(features), where, k))


def test_pairs_and_triples_are_drawn_as_k_means_plus_plus_draws_them():
    """The probabilities of all ordered triples, by the distances of the gradients themselves."""
    g = gradients(LOGITS, FEATURES)
    squared = ((g[:, None] - g[None]) ** 2).sum(-1)
    first = int((g**2).sum(1).argmax())
    expected = {}
    for i in set(range(N)) - {first}:
        for j in set(range(N)) - {first, i}:
            nearest = np.minimum(squared[first], squared[i])
            expected[i, j] = squared[first, i] / squared[first].sum() * nearest[j] / nearest.sum()
    found = drawn(LOGITS, FEATURES, 3)
    assert np.all(found[:, 0] == first) and np.isclose(sum(expected.values()), 1)
    counts = [np.sum((found[:, 1:] == pair).all(1)) for pair in expected]
    assert sum(counts) == DRAWS
    assert chisquare(counts, DRAWS * np.array(list(expected.values()))).pvalue > 1e-3


def test_the_origin_is_no_center():
    """Short gradients, near 0, are drawn second: no gradient near them was drawn, though the origin is near."""
    features = np.float32([[30, 0], [29, 0], [28, 0], [1e-3, 0], [0, 1e-3], [0, 0]])
    second = drawn(np.zeros((N, 3), np.float32), features, 2)[:, 1]
    assert np.mean(np.isin(second, [3, 4, 5])) > 0.98


def test_no_example_is_drawn_twice_and_equal_ones_come_last():
    logits, features = LOGITS[[0, 0, 1, 1, 2, 2]], FEATURES[[0, 0, 1, 1, 2, 2]]
    found = drawn(logits, features, N)
    assert np.all(np.sort(found, axis=1) == np.arange(N))
    assert np.all(np.sort(found[:, :3] // 2, axis=1) == np.arange(3))
    assert chisquare(np.bincount(found[:, 5], minlength=N)).pvalue > 1e-3


def test_gradients_that_are_all_zero_are_drawn_uniformly():
    found = drawn(LOGITS, np.zeros((N, 2), np.float32), 2, where=[True, True, True, False, True, True])
    pairs, counts = np.unique(found, axis=0, return_counts=True)
    assert len(pairs) == 20 and 3 not in pairs and chisquare(counts).pvalue > 1e-3


def test_rows_that_cannot_be_measured_are_not_drawn():
    logits, features = LOGITS.copy(), FEATURES.copy()
    logits[0, 0], features[1, 0], features[2, 1] = np.nan, np.inf, 1e30
    found = drawn(logits, features, N, where=[True] * 5 + [False])
    assert np.all(np.sort(found, axis=1) == [3, 4, N, N, N, N]) and np.all(found[:, 2:] == N)


def test_a_nearly_certain_row_is_not_certain():
    """Its largest probability is 1 in float32, but its gradient is that of its other probabilities."""
    logits = np.float32([[30, 0, 0], [31, 0, 0], [60, 0, 0]])
    found = drawn(logits, np.ones((3, 2), np.float32), 2)
    near, far = (1 - np.exp(-1)) ** 2, 1.0  # squared distances of the others from the first, in its squared lengths
    assert np.all(found[:, 0] == 0)
    assert chisquare(np.bincount(found[:, 1])[1:], DRAWS * np.array([near, far]) / (near + far)).pvalue > 1e-3


def test_a_pool_keeps_those_drawn():
    pool = jnp.array([0.5, 0.0, 0.25, 1.0, 0.0, 2.0])
    tx = selection.keep_by_badge(2, key=3)
    kept = np.asarray(tx.update(pool, tx.init(pool), logits=jnp.asarray(LOGITS), features=jnp.asarray(FEATURES))[0])
    assert np.sum(kept > 0) == 2 and np.all((kept == 0) | (kept == np.asarray(pool)))
    lengths = (gradients(LOGITS, FEATURES) ** 2).sum(1) * (np.asarray(pool) > 0)
    assert kept[lengths.argmax()] > 0


def test_bad_input_is_named():
    logits, features = jnp.asarray(LOGITS), jnp.asarray(FEATURES)
    with pytest.raises(ValueError, match=r"k is 7, wanted at most 6 \(the number of examples\)"):
        selection.badge_indices(0, logits, features, 7)
    with pytest.raises(ValueError, match=r"features has shape \[5, 2\]"):
        selection.badge_indices(0, logits, features[:5], 2)
    with pytest.raises(TypeError, match="key has dtype float32"):
        selection.keep_by_badge(2, jnp.zeros(2))
    with pytest.raises(ValueError, match="k is 0, wanted at least 1"):
        selection.keep_by_badge(0, 0)
