import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

CASES = {
    "keep_uncertain": Case(lambda: selection.keep_uncertain(5, key=0), draws.predicted),
}


RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(40, 5))).astype(np.float32)
P = softmax(LOGITS.astype(np.float64), axis=1)
SORTED = np.sort(P, axis=1)[:, ::-1]
SCORES = {"least_confidence": 1 - SORTED[:, 0], "margin": SORTED[:, 1] - SORTED[:, 0], "entropy": entropy(P, axis=1)}
FUNCTIONS = {
    "least_confidence": selection.least_confidence,
    "margin": selection.negative_margin,
    "entropy": selection.prediction_entropy,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scores_are_those_of_numpy_and_the_highest_are_kept(name):
    np.testing.assert_allclose(FUNCTIONS[name](jnp.asarray(LOGITS)), SCORES[name], rtol=2e-5, atol=1e-7)
    pool = jnp.asarray(RNG.uniform(0.5, 1, 40) * (RNG.uniform(size=40) < 0.7))
    tx = selection.keep_uncertain(6, key=0, score=name)
    kept = tx.update(pool, tx.init(pool), logits=jnp.asarray(LOGITS))[0]
    best = sorted(np.flatnonzero(pool), key=lambda i: -SCORES[name][i])[:6]
    np.testing.assert_array_equal(kept, np.where(np.isin(np.arange(40), best), pool, 0))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_impossible_classes_and_rows_without_a_softmax(name):
    rows = jnp.log(jnp.array([[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    rows = jnp.concatenate([rows, jnp.array([[jnp.nan, 0.0, 0.0], [jnp.inf, 0.0, 0.0]])])
    expected = {"least_confidence": [0.25, 0], "margin": [-0.5, -1], "entropy": [entropy([0.75, 0.25]), 0]}[name]
    np.testing.assert_allclose(FUNCTIONS[name](rows), [*expected, np.nan, np.nan, np.nan], rtol=1e-6)
    tx = selection.keep_uncertain(4, key=1, score=name)
    np.testing.assert_array_equal(tx.update(jnp.ones(5), tx.init(jnp.ones(5)), logits=rows)[0], [1, 1, 0, 0, 0])


def test_nearly_certain_rows_keep_their_order():
    """In float32 the probability of the first class is 1 in all rows."""
    logits = jnp.array([[40.0, 0.0], [30.0, 0.0], [50.0, 0.0]])
    np.testing.assert_allclose(selection.least_confidence(logits), np.exp([-40, -30, -50]), rtol=1e-5)


def test_probabilities_are_logits_and_checked():
    np.testing.assert_allclose(jax.nn.softmax(selection.log_probabilities(jnp.asarray(P, jnp.float32))), P, rtol=1e-5)
    rows = jnp.array([[0.5, 0.5], [0.7, 0.1], [1.5, -0.5], [1.0, 0.0]])
    found = jax.jit(selection.log_probabilities)(rows)
    np.testing.assert_allclose(np.isnan(found).any(axis=1), [False, True, True, False])
    tx = selection.keep_uncertain(4, key=0)
    np.testing.assert_array_equal(tx.update(jnp.ones(4), tx.init(jnp.ones(4)), logits=found)[0], [1, 0, 0, 1])
    with pytest.raises(ValueError, match=r"probabilities\[1\] sums to 0.8, wanted numbers of at least 0 that sum to 1"):
        selection.log_probabilities(rows)
    with pytest.raises(ValueError, match=r"probabilities\[0\] holds -0.5, wanted"):
        selection.log_probabilities(rows[2:3])


def test_bad_input_is_named():
    logits = jnp.zeros((3, 1))
    with pytest.raises(ValueError, match=r"logits has shape \[3, 1\], wanted at least 2 classes"):
        selection.negative_margin(logits)
    with pytest.raises(TypeError, match="logits has dtype int32"):
        selection.prediction_entropy(jnp.zeros((3, 2), jnp.int32))
    with pytest.raises(ValueError, match="wanted at least 2 classes"):
        selection.prediction_entropy(logits)
    with pytest.raises(ValueError, match="score is 'bald', wanted one of"):
        selection.keep_uncertain(1, key=0, score="bald")
    with pytest.raises(ValueError, match="k is 4, wanted at most 3"):
        tx = selection.keep_uncertain(4, key=0)
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), logits=jnp.zeros((3, 2)))
