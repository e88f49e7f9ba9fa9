import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_lightweight_coreset": Case(
        lambda: selection.keep_lightweight_coreset(5, key=0), draws.features, lowers_mass=None, tolerance=1e-5
    ),
}


RNG = np.random.default_rng(0)
N, DRAWS = 7, 3000
FEATURES = RNG.normal([9, -4], size=(N, 2)).astype(np.float32)
WEIGHTS = np.array([1, 2, 0, 0.5, 1, 3, 0.25], np.float32)


def reference(features, weights):
    """The published formula, where an example of weight 2 is two examples of weight 1."""
    weights = weights.astype(np.float64)
    mean = np.average(features.astype(np.float64), axis=0, weights=weights)
    squares = weights * ((features - mean) ** 2).sum(1)
    return weights / (2 * weights.sum()) + squares / (2 * squares.sum())


def many(weighting, k):
    tx = selection.keep_lightweight_coreset(k, key=0, weighting=weighting)
    weights = jnp.asarray(WEIGHTS)

    def step(state, _):
        kept, state = tx.update(weights, state, features=jnp.asarray(FEATURES))
        return state, kept

    return np.asarray(jax.lax.scan(step, tx.init(weights), length=DRAWS)[1])


def test_probabilities_are_the_formula():
    found = selection.lightweight_probabilities(jnp.asarray(FEATURES), item_weights=jnp.asarray(WEIGHTS))
    np.testing.assert_allclose(found, reference(FEATURES, WEIGHTS), rtol=1e-5)
    found = selection.lightweight_probabilities(jnp.asarray(FEATURES))
    np.testing.assert_allclose(found, reference(FEATURES, np.ones(N)), rtol=1e-5)


def test_the_weighted_sample_is_unbiased_and_bounded():
    kept = many("unbiased", 3)
    error = kept.std(0) / np.sqrt(DRAWS)
    assert np.all(np.abs(kept.mean(0) - WEIGHTS) <= 4.5 * error) and np.all(kept[:, 2] == 0)
    assert kept.max() <= 2 * WEIGHTS.sum() * (1 + 1e-5)  # three draws of one example
    shares = kept / np.where(WEIGHTS > 0, WEIGHTS, 1) * 3 * reference(FEATURES, WEIGHTS)
    np.testing.assert_allclose(shares.sum(1), 3, rtol=1e-5)


def test_the_first_two_without_replacement_have_the_frequencies_of_successive_draws():
    q = reference(FEATURES, WEIGHTS)
    kept = many("own", 2)
    assert np.all((kept == 0) | (kept == WEIGHTS)) and np.all((kept > 0).sum(1) == 2)
    expected = {(i, j): q[i] * q[j] / (1 - q[i]) + q[j] * q[i] / (1 - q[j]) for j in range(N) for i in range(j)}
    expected = {pair: p for pair, p in expected.items() if p > 0}
    counts = [np.sum((kept[:, list(pair)] > 0).all(1)) for pair in expected]
    assert sum(counts) == DRAWS and chisquare(counts, DRAWS * np.array(list(expected.values()))).pvalue > 1e-3


def test_rows_that_cannot_be_measured_change_nothing():
    bad = np.float32([[np.nan, 0], [0, np.inf], [1e30, 0], [5, 5], [5, 5]])
    weights = np.concatenate([WEIGHTS, np.float32([1, 1, 1, np.nan, -1])])
    found = selection.lightweight_probabilities(jnp.asarray(np.concatenate([FEATURES, bad])), item_weights=weights)
    np.testing.assert_allclose(found, [*reference(FEATURES, WEIGHTS), 0, 0, 0, 0, 0], rtol=1e-5)


def test_equal_rows_go_by_weight_and_none_give_zeros():
    equal = jnp.zeros((4, 2))
    weights = jnp.array([1.0, 1.0, 2.0, 0.0])
    np.testing.assert_allclose(selection.lightweight_probabilities(equal, item_weights=weights), weights / 4)
    assert not selection.lightweight_probabilities(equal, item_weights=jnp.zeros(4)).any()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="weighting is 'represented', wanted one of"):
        selection.keep_lightweight_coreset(2, key=0, weighting="represented")
    with pytest.raises(ValueError, match=r"k is 8, wanted at most 7 \(the number of examples\)"):
        tx = selection.keep_lightweight_coreset(8, key=0)
        tx.update(jnp.ones(N), tx.init(jnp.ones(N)), features=jnp.asarray(FEATURES))
    with pytest.raises(ValueError, match=r"item_weights has shape \[3\], wanted \[7\]"):
        selection.lightweight_probabilities(jnp.asarray(FEATURES), item_weights=jnp.ones(3))
    with pytest.raises(TypeError, match="features has dtype int32"):
        selection.lightweight_probabilities(jnp.zeros((3, 2), jnp.int32))
