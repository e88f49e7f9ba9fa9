import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.selection import held_out_fit, predict_tasks, representative_tasks

RNG = np.random.default_rng(0)
M, T = 20, 8
RECORDS = (RNG.normal(size=(M, 3)) @ RNG.normal(size=(3, T)) + 0.3 * RNG.normal(size=(M, T))).astype(np.float32)


choose = jax.jit(representative_tasks, static_argnums=1)
predict = jax.jit(predict_tasks)
fit = jax.jit(held_out_fit, static_argnums=2)


def explained(records, chosen):
    """The fraction of the variance that least squares on the chosen columns explain."""
    centered = records - records.mean(0)
    left = centered - centered[:, chosen] @ np.linalg.lstsq(centered[:, chosen], centered, rcond=None)[0]
    return 1 - np.sum(left**2) / np.sum(centered**2)


def test_each_task_is_the_best_next_one_by_least_squares():
    records = RECORDS.astype(np.float64)
    found = choose(jnp.asarray(RECORDS), 4, ridge=0.0)
    chosen = []
    for step in range(4):
        gains = {t: explained(records, [*chosen, t]) for t in range(T) if t not in chosen}
        chosen.append(max(gains, key=gains.__getitem__))
        assert found.indices[step] == chosen[-1]
        assert found.explained[step] == pytest.approx(gains[chosen[-1]], abs=1e-4)
    best = max(explained(records, list(some)) for some in itertools.combinations(range(T), 3))
    assert explained(records, chosen[:3]) > 0.97 * best


def test_as_many_tasks_as_the_rank_explain_everything_and_none_is_chosen_after_that():
    low = (RNG.normal(size=(M, 2)) @ RNG.normal(size=(2, T))).astype(np.float32)
    found = choose(jnp.asarray(low), 4)
    np.testing.assert_allclose(found.explained[1:], 1, atol=1e-5)
    assert found.indices[2:].tolist() == [T, T]
    constant = choose(jnp.full((M, T), 0.1), 4)
    assert constant.indices.tolist() == [T] * 4 and constant.explained.tolist() == [1] * 4
    two = np.repeat([0.0, 1.0], T // 2) * RNG.integers(0, 2, (M, 1))
    whole = choose(jnp.asarray(two, jnp.float32), 4)
    assert whole.indices.tolist() == [4, T, T, T] and whole.explained[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("scale", [1e20, 1e-25])
def test_units_do_not_matter(scale):
    chosen, given = jnp.array([2, 5, 0]), jnp.float32(RECORDS[:4, [2, 5, 0]] * scale)
    records, families = jnp.float32(RECORDS * scale), jnp.arange(M) % 4
    found, expected = choose(records, 4, ridge=0.0), choose(jnp.asarray(RECORDS), 4, ridge=0.0)
    assert found.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.explained, expected.explained, rtol=1e-5)
    predicted = np.float64(predict(records, chosen, given, ridge=0.1)) / scale
    np.testing.assert_allclose(predicted, ridge_prediction(RECORDS, [2, 5, 0], RECORDS[:4, [2, 5, 0]], 0.1), atol=1e-4)
    alike = fit(jnp.asarray(RECORDS), families, 4, chosen, ridge=0.1)
    assert float(fit(records, families, 4, chosen, ridge=0.1)) == pytest.approx(float(alike), abs=1e-4)


def test_tasks_on_which_all_score_the_same_predict_the_means():
    records = RECORDS.copy()
    records[:, [0, 3]] = 0.3
    found = predict(jnp.asarray(records), jnp.array([0, 3, T]), jnp.float32(RECORDS[:4, :3]), ridge=0.1)
    np.testing.assert_allclose(found, np.tile(records.mean(0), (4, 1)), atol=1e-5)


def test_models_with_a_missing_score_are_left_out():
    records, families = RECORDS.copy(), jnp.arange(M) % 4
    records[M - 2, 3], records[M - 1, 0] = np.nan, np.inf
    for function in (
        lambda r, f: choose(r, 4, ridge=0.0),
        lambda r, f: predict(r, jnp.array([1, 4, 3]), jnp.ones((4, 3)), ridge=0.1),
        lambda r, f: fit(r, f, 4, jnp.array([1, 4, T]), ridge=0.1),
    ):
        found, expected = function(jnp.asarray(records), families), function(jnp.asarray(RECORDS[:-2]), families[:-2])
        for one, other in zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]:
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def ridge_prediction(records, chosen, scores, ridge):
    centered, mean = records - records.mean(0), records.mean(0)
    columns = centered[:, chosen]
    gram = columns.T @ columns
    slopes = np.linalg.solve(gram + ridge * np.trace(gram) / len(chosen) * np.eye(len(chosen)), columns.T @ centered)
    return mean + (scores - mean[chosen]) @ slopes


def test_predictions_are_those_of_ridge_regression():
    chosen, scores = [2, 5, 0], RNG.normal(size=(4, 3)).astype(np.float32)
    found = predict(jnp.asarray(RECORDS), jnp.asarray(chosen), jnp.asarray(scores), ridge=0.1)
    np.testing.assert_allclose(found, ridge_prediction(RECORDS, chosen, scores, 0.1), rtol=1e-4, atol=1e-4)


def test_the_fit_is_of_families_left_out():
    families, chosen = RNG.integers(0, 4, M), [1, 6]
    error = spread = 0.0
    others = [t for t in range(T) if t not in chosen]
    for family in range(4):
        mine, rest = RECORDS[families == family], RECORDS[families != family]
        predicted = ridge_prediction(rest, chosen, mine[:, chosen], 0.05)
        error += np.sum((predicted - mine)[:, others] ** 2)
        spread += np.sum((rest.mean(0) - mine)[:, others] ** 2)
    found = fit(jnp.asarray(RECORDS), jnp.asarray(families), 4, jnp.asarray(chosen), ridge=0.05)
    assert float(found) == pytest.approx(1 - error / spread, abs=1e-4)
    padded = fit(jnp.asarray(RECORDS), jnp.asarray(families), 4, jnp.array([1, 6, T]), ridge=0.05)
    assert float(padded) == pytest.approx(float(found), abs=1e-4)
    outside = fit(jnp.asarray(RECORDS), families.astype(np.int64), 4, jnp.array([1, 6, -1]), ridge=0.05)
    assert float(outside) == pytest.approx(float(found), abs=1e-4)
    assert np.isnan(fit(jnp.asarray(RECORDS), jnp.zeros(M, jnp.int32), 4, jnp.array([1, 6, T]), ridge=0.05))
    assert np.isnan(fit(jnp.asarray(RECORDS), jnp.asarray(families), 4, jnp.arange(T), ridge=0.0))


def test_bad_input_is_named():
    records = jnp.asarray(RECORDS)
    with pytest.raises(ValueError, match=r"k is 9, wanted at most 8 \(the number of tasks\)"):
        representative_tasks(records, 9)
    with pytest.raises(ValueError, match=r"scores has shape \[3\], wanted \[..., 2\]"):
        predict_tasks(records, jnp.array([0, 1]), jnp.ones(3))
    with pytest.raises(ValueError, match="num_families is 1, wanted at least 2"):
        held_out_fit(records, jnp.zeros(M, jnp.int32), 1, jnp.array([0]))
