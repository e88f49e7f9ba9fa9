import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy

from minibatch_jax import selection
from minibatch_jax.selection import cohen_kappa, f_score_change

N, ROUNDS = 40, 12


def history(classes, seed=0):
    """Predictions of some rounds, of which fewer and fewer change; -1 are rows without a softmax."""
    rng = np.random.default_rng(seed)
    rounds = [rng.integers(0, classes, N)]
    for left in (20, 8, 3, 1, 0, 0, 0, 5, 0, 0, 0):
        new = rounds[-1].copy()
        places = rng.permutation(N)[:left]
        new[places] = rng.integers(0, classes, left)
        rounds.append(new)
    for new in rounds[::2]:
        new[0] = -1
    return np.array(rounds)


def logits_of(predictions, classes):
    return np.where(predictions[..., None] < 0, np.nan, 3.0 * np.eye(classes)[predictions]).astype(np.float32)


def both(old, new):
    counted = (old >= 0) & (new >= 0)
    return old[counted], new[counted]


def kappa(old, new, classes):
    """From the table of counts."""
    old, new = both(old, new)
    table = np.zeros((classes, classes))
    for i, j in zip(old, new):
        table[i, j] += 1 / len(old)
    chance = table.sum(0) @ table.sum(1)
    return 1.0 if chance == 1 else (np.trace(table) - chance) / (1 - chance)


def change_of_f(old, new):
    old, new = (set(np.flatnonzero(x == 1)) for x in both(old, new))
    return 1 - 2 * len(old & new) / (len(old) + len(new)) if old | new else 0.0


def run(rule, logits):
    def step(state, now):
        stop, state = rule.update(state, now)
        return state, (stop, state.values[-1])

    state, (stops, values) = jax.lax.scan(step, rule.init(N), jnp.asarray(logits))
    assert int(state.checks) == len(logits)
    return np.asarray(stops), np.asarray(values)


@pytest.mark.parametrize("window", [1, 3])
def test_kappa_stops_by_the_mean_of_the_last_values(window):
    rounds = history(4)
    stops, values = run(selection.stop_by_kappa(window=window, threshold=0.95), logits_of(rounds, 4))
    expected = [kappa(old, new, 4) for old, new in itertools.pairwise(rounds)]
    np.testing.assert_allclose(values, [np.nan, *expected], rtol=1e-5)
    means = [np.mean(expected[t - window : t]) if t >= window else 0 for t in range(ROUNDS)]
    np.testing.assert_array_equal(stops, np.array(means) >= 0.95)
    assert 0 < stops.sum() < ROUNDS - window


def test_f_score_stops_when_the_last_changes_are_all_small():
    rounds = history(2)
    stops, values = run(selection.stop_by_f_score(window=2), logits_of(rounds, 2))
    expected = [change_of_f(old, new) for old, new in itertools.pairwise(rounds)]
    np.testing.assert_allclose(values, [np.nan, *expected], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(stops, [t >= 2 and max(expected[t - 2 : t]) < 0.05 for t in range(ROUNDS)])
    assert 0 < stops.sum() < ROUNDS - 2


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_changes_stop_when_few_predictions_change(threshold):
    rounds = history(4)
    stops, _ = run(selection.stop_by_changes(threshold=threshold), logits_of(rounds, 4))
    pairs = [both(old, new) for old, new in itertools.pairwise(rounds)]
    np.testing.assert_array_equal(stops, [False, *(np.sum(a == b) >= len(a) * (1 - threshold) for a, b in pairs)])
    assert 0 < stops.sum() < ROUNDS - 1


def test_uncertainty_stops_when_the_mean_entropy_is_small():
    rng = np.random.default_rng(0)
    logits = (np.linspace(1, 9, ROUNDS)[:, None, None] * rng.normal(size=(ROUNDS, N, 3))).astype(np.float32)
    p = np.exp(logits.astype(np.float64))
    expected = np.mean(entropy(p, axis=2)[:, 1:], axis=1) / np.log(3)
    logits[:, 0, 1] = np.nan
    stops, values = run(selection.stop_by_uncertainty(threshold=0.2), logits)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_array_equal(stops, expected < 0.2)
    assert 0 < stops.sum() < ROUNDS


def test_the_last_check_stops():
    stops, _ = run(selection.stop_after(5), logits_of(history(2), 2))
    np.testing.assert_array_equal(stops, np.arange(1, ROUNDS + 1) >= 5)


RULES = {
    "kappa": functools.partial(selection.stop_by_kappa, window=1),
    "f_score": functools.partial(selection.stop_by_f_score, window=1),
    "changes": selection.stop_by_changes,
    "uncertainty": selection.stop_by_uncertainty,
}


@pytest.mark.parametrize("name", RULES)
def test_no_row_that_counts_is_no_reason_to_stop(name):
    stops, values = run(RULES[name](), np.full((3, N, 2), np.nan, np.float32))
    assert not stops.any() and np.isnan(values).all()


def test_agreement_at_its_ends():
    zeros, ones = jnp.zeros(5, jnp.int32), jnp.ones(5, jnp.int32)
    assert float(cohen_kappa(zeros, zeros, 3)) == 1 and float(cohen_kappa(zeros, ones, 3)) == 0
    assert float(cohen_kappa(jnp.array([0, 1]), jnp.array([1, 0]), 2)) == -1
    assert float(f_score_change(zeros, zeros)) == 0 and float(f_score_change(zeros, ones)) == 1
    assert np.isnan(cohen_kappa(-ones, zeros, 3)) and np.isnan(f_score_change(zeros + 2, zeros))


def test_agreement_of_rare_classes_is_not_lost_in_rounding():
    first, second = np.zeros((2, 3_000_000), np.int32)
    first[:3], second[1:4] = 1, 1
    share = 3 / len(first)
    expected = (1 - 2 / len(first) - share**2 - (1 - share) ** 2) / (1 - share**2 - (1 - share) ** 2)
    np.testing.assert_allclose(cohen_kappa(jnp.asarray(first), jnp.asarray(second), 2), expected, rtol=1e-5)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="threshold is 1.5, wanted a number in"):
        selection.stop_by_kappa(threshold=1.5)
    with pytest.raises(ValueError, match="window is 0, wanted at least 1"):
        selection.stop_by_f_score(window=0)
    with pytest.raises(ValueError, match="checks is 0, wanted at least 1"):
        selection.stop_after(0)
    with pytest.raises(ValueError, match="num_rows is 0, wanted at least 1"):
        selection.stop_by_changes().init(0)
    rule = selection.stop_by_f_score()
    with pytest.raises(ValueError, match=r"logits has shape \[4, 3\], wanted \[4, 2\]"):
        rule.update(rule.init(4), jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"logits has shape \[3, 2\], wanted \[4, any size > 0\]"):
        rule.update(rule.init(4), jnp.zeros((3, 2)))
    rule = selection.stop_by_uncertainty()
    with pytest.raises(ValueError, match="wanted at least 2 classes"):
        rule.update(rule.init(4), jnp.zeros((4, 1)))
    with pytest.raises(TypeError, match="second has dtype float32"):
        cohen_kappa(jnp.zeros(3, jnp.int32), jnp.zeros(3), 2)
