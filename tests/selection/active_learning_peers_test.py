"""The same probabilities give the scores of small-text and scikit-activeml, where their rule is the published one."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score

from minibatch_jax import selection

RNG = np.random.default_rng(0)
N, C = 50, 6
LOGITS = (2 * RNG.normal(size=(N, C))).astype(np.float32)
P = softmax(LOGITS.astype(float), axis=1)
COMMITTEE = (2 * RNG.normal(size=(12, 4, 3))).astype(np.float32)
X = RNG.normal(size=(N, 4)).astype(np.float32)


class Fixed:
    """A classifier of small-text that predicts the same for every data set."""

    def predict_proba(self, _):
        return P


@pytest.mark.parametrize(
    "name,sign,offset,ours",
    [
        ("LeastConfidence", -1, 1, selection.least_confidence),
        ("BreakingTies", -1, 0, selection.negative_margin),
        ("PredictionEntropy", -1, 0, selection.prediction_entropy),
    ],
)
def test_uncertainty_of_small_text(name, sign, offset, ours):
    strategies = pytest.importorskip("small_text.query_strategies.strategies")
    rows = np.arange(N)
    theirs = getattr(strategies, name)().score(Fixed(), rows, rows, rows[:0], np.array([]))
    np.testing.assert_allclose(ours(jnp.asarray(LOGITS)), sign * np.asarray(theirs) + offset, rtol=1e-4, atol=1e-6)


def test_uncertainty_of_scikit_activeml():
    pool = pytest.importorskip("skactiveml.pool")
    for method, ours in (
        ("least_confident", selection.least_confidence),
        ("entropy", selection.prediction_entropy),
    ):
        np.testing.assert_allclose(ours(jnp.asarray(LOGITS)), pool.uncertainty_scores(P, method=method), rtol=1e-4)
    margins = pool.uncertainty_scores(P, method="margin_sampling")
    np.testing.assert_allclose(selection.negative_margin(jnp.asarray(LOGITS)), margins - 1, rtol=1e-4, atol=1e-6)


def test_disagreement_of_both():
    bayesian = pytest.importorskip("small_text.query_strategies.bayesian")
    pool = pytest.importorskip("skactiveml.pool")
    probabilities = softmax(COMMITTEE.astype(float), axis=2)
    found = np.asarray(selection.consensus_divergence(jnp.asarray(COMMITTEE)))
    np.testing.assert_allclose(found / np.log(2), bayesian._bald(probabilities), rtol=1e-4, atol=1e-6)
    theirs = pool.average_kl_divergence(probabilities.transpose(1, 0, 2))
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-6)


def test_batch_bald_of_scikit_activeml():
    """Its joint entropy is exact while there are few configurations."""
    pool = pytest.importorskip("skactiveml.pool")
    probabilities = softmax(COMMITTEE.astype(float), axis=2).transpose(1, 0, 2)
    theirs = pool.batch_bald(probabilities.copy(), 3, n_MC_samples=1000, random_state=0)
    found = selection.batch_bald_indices(0, jnp.asarray(COMMITTEE), 3, num_samples=27)
    np.testing.assert_array_equal(found.indices, np.nanargmax(theirs, axis=1))
    np.testing.assert_allclose(np.cumsum(found.gains), np.nanmax(theirs, axis=1), rtol=1e-4)


def test_core_set_of_small_text():
    coresets = pytest.importorskip("small_text.query_strategies.coresets")
    unlabeled, labeled = np.arange(40), np.arange(40, N)  # it wants the unlabeled rows first
    theirs = coresets.greedy_coreset(X, unlabeled, labeled, 8, distance_metric="euclidean", normalized=True)
    found = selection.k_center(jnp.asarray(X), 8, chosen=jnp.arange(N) >= 40)
    np.testing.assert_array_equal(found.indices, theirs)


def test_kappa_of_scikit_learn():
    old, new = RNG.integers(0, 4, (2, 60))
    new = np.where(RNG.random(60) < 0.6, old, new)
    found = selection.cohen_kappa(jnp.asarray(old), jnp.asarray(new), 4)
    np.testing.assert_allclose(found, cohen_kappa_score(old, new), rtol=1e-5)
