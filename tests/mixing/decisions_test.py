"""Decisions of pairs against loops over pairs, Kendall's tau of scipy, and a bootstrap in numpy."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from minibatch_jax import mixing
from tests.half_precision import DTYPES, check_like_float32, grid

RNG = np.random.default_rng(0)
TARGET = jnp.asarray(RNG.normal(size=8), jnp.float32)
NOISY = jnp.asarray(np.asarray(TARGET)[:, None] + RNG.normal(size=(8, 3)), jnp.float32)


def accuracy_by_loops(predictions, target, vote="majority"):
    """Right pairs over pairs that the target orders, a pair and a seed at a time."""
    right = decided = 0
    for i, j in itertools.combinations(range(len(target)), 2):
        if np.isfinite(target[[i, j]]).all() and target[i] != target[j]:
            votes = [np.sign(p[i] - p[j]) for p in predictions.T if np.isfinite(p[[i, j]]).all()]
            votes = [v for v in votes if v]
            decision = np.sign(sum(votes)) if vote == "majority" or len(set(votes)) == 1 else 0
            decided += 1
            right += decision == np.sign(target[i] - target[j])
    return right / decided


def test_without_ties_it_is_kendalls_tau():
    found = float(mixing.decision_accuracy(NOISY[:, 0], TARGET))
    tau = np.asarray(scipy.stats.kendalltau(NOISY[:, 0], TARGET))[0]
    assert found == pytest.approx((tau + 1) / 2, abs=1e-6)
    assert float(mixing.decision_accuracy(-NOISY[:, 0], TARGET, opposite=True)) == pytest.approx(found)


def test_a_predicted_tie_is_wrong_and_a_tie_of_the_target_is_no_pair():
    predictions, target = jnp.array([1.0, 2.0, 2.0, 0.0]), jnp.array([1.0, 2.0, 3.0, 3.0])
    # of the pairs 01 02 03 12 13 23: right, right, wrong, tied, wrong, nothing to decide
    assert float(mixing.decision_accuracy(predictions, target)) == pytest.approx(2 / 5)
    assert np.isnan(mixing.decision_accuracy(predictions, jnp.ones(4)))


@pytest.mark.parametrize("vote", ["majority", "unanimous"])
def test_votes_of_seeds_equal_loops_over_pairs_and_seeds(vote):
    rounded = np.round(np.asarray(NOISY))
    rounded[2, 1], rounded[5] = np.nan, np.inf
    target = np.asarray(TARGET.at[7].set(jnp.nan))
    found = mixing.decision_accuracy(jnp.asarray(rounded), jnp.asarray(target), vote=vote)
    assert float(found) == pytest.approx(accuracy_by_loops(rounded, target, vote), abs=1e-6)
    pairs = np.asarray(mixing.pair_decisions(jnp.asarray(rounded), vote=vote))
    np.testing.assert_array_equal(pairs, -pairs.T)
    assert not pairs[5].any() and set(pairs.ravel()) == {-1, 0, 1}


def test_seeds_of_the_target_are_averaged_where_they_are_finite():
    seeds = jnp.stack([TARGET - 1, TARGET + 1, jnp.where(jnp.arange(8) == 3, jnp.nan, TARGET)], axis=1)
    assert float(mixing.decision_accuracy(NOISY, seeds)) == float(mixing.decision_accuracy(NOISY, TARGET))


def test_the_bootstrap_draws_recipes_as_numpy_does():
    draws = np.asarray(mixing.decision_accuracy_draws(0, NOISY[:, 0], TARGET, 3000))
    rows = np.random.default_rng(1).integers(0, 8, (3000, 8))
    predicted, wanted = (np.sign(x[rows][:, :, None] - x[rows][:, None]) for x in np.asarray([NOISY[:, 0], TARGET]))
    known = np.sum((predicted == wanted) & (wanted != 0), (1, 2)) / np.sum(wanted != 0, (1, 2))
    assert np.mean(draws) == pytest.approx(np.mean(known), abs=0.015)
    assert np.std(draws) == pytest.approx(np.std(known), rel=0.08)
    assert set(mixing.decision_accuracy_draws(0, TARGET, TARGET, 20).tolist()) == {1.0}


def test_scores_of_choices_are_those_of_their_probabilities():
    logs = RNG.normal(size=(6, 4)) - 2
    lengths = RNG.integers(1, 5, (6, 4)).astype(float)
    there = np.ones((6, 4), bool)
    there[1, 3] = there[2, 1] = there[4, 2] = False
    answers = np.array([0, 1, 2, 3, 2, 1])  # the answer of item 4 is not there
    found = mixing.choice_scores(
        jnp.asarray(logs, jnp.float32),
        jnp.asarray(answers),
        lengths=jnp.asarray(lengths, jnp.float32),
        where=jnp.asarray(there),
    )
    for i in (0, 1, 2, 3, 5):
        probs = np.where(there[i], np.exp(logs[i] / lengths[i]), 0)
        right, wrong = probs[answers[i]], np.delete(probs, answers[i]).max()
        known = right > wrong, right, right / probs.sum(), right - wrong, probs.sum()
        np.testing.assert_allclose([float(score[i]) for score in found], known, rtol=1e-5)
    assert all(np.isnan(score[4]) for score in found)


def test_choices_too_improbable_for_a_float_still_have_a_share_and_ties_are_wrong():
    logs = jnp.array([[-500.0, -501.0], [-1.0, -1.0]])
    found = mixing.choice_scores(logs, jnp.array([0, 1]))
    assert float(found.norm_correct_prob[0]) == pytest.approx(scipy.special.expit(1.0), rel=1e-5)
    assert found.accuracy.tolist() == [1.0, 0.0] and float(found.correct_prob[0]) == 0


def test_fraction_of_compute_does_not_overflow():
    found = mixing.compute_fraction(1e20, 1e22, 1e21, 1e23)
    assert float(found) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_computed_in_float32(dtype):
    predictions, target, logs = grid(0, 9, 3), grid(1, 9), grid(2, 5, 3, low=-2)

    def all_of_them(cast):
        return (
            mixing.decision_accuracy(cast(predictions), cast(target)),
            mixing.choice_scores(cast(logs), jnp.arange(5) % 3),
        )

    check_like_float32(all_of_them, dtype)


@pytest.mark.parametrize(
    "call,error,message",
    [
        (lambda: mixing.decision_accuracy(jnp.ones(1), jnp.ones(1)), ValueError, "predictions has 1 recipe, wanted"),
        (lambda: mixing.decision_accuracy(TARGET, TARGET[:4]), ValueError, "target has 4 recipes, wanted 8"),
        (lambda: mixing.decision_accuracy(TARGET, TARGET, vote="all"), ValueError, "vote is 'all', wanted one of"),
        (lambda: mixing.pair_decisions(jnp.arange(4)), TypeError, "predictions has dtype int32, wanted a floating"),
        (lambda: mixing.compute_fraction(1, 1, 0, 1), ValueError, "target_parameters is 0, wanted a number in"),
        (lambda: mixing.choice_scores(NOISY, jnp.ones(3, int)), ValueError, r"answers has shape \[3\], wanted \[8\]"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
