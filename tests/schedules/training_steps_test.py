"""Steps to a goal by hand, regimes of curves that are known, and points against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import qmc

from minibatch_jax.schedules import (
    best_over_trials,
    edge_of_search_space,
    halton_points,
    perfect_scaling_line,
    scaling_regimes,
    steps_to_result,
)


def by_hand(steps, values, goal, consecutive, interpolate):
    for i in range(len(values) - consecutive + 1):
        if all(v <= goal for v in values[i : i + consecutive]):
            if not interpolate or i == 0 or not np.isfinite(values[i - 1]):
                return steps[i]
            before, value = values[i - 1], values[i]
            if before <= goal:
                return steps[i - 1]
            return steps[i - 1] + (before - goal) / (before - value) * (steps[i] - steps[i - 1])
    return np.inf


@pytest.mark.parametrize("consecutive", [1, 3])
@pytest.mark.parametrize("interpolate", [False, True])
def test_the_first_step_at_the_goal_is_that_of_a_loop(consecutive, interpolate):
    rng = np.random.default_rng(consecutive)
    steps = np.cumsum(rng.integers(1, 9, size=(40, 12)), axis=1)
    values = np.linspace(1, 0, 12) + rng.normal(scale=0.3, size=(40, 12))
    values[rng.random((40, 12)) < 0.1] = np.nan
    find = lambda s, v: steps_to_result(s, v, 0.1, consecutive=consecutive, interpolate=interpolate)  # noqa: E731
    found = jax.jit(jax.vmap(find))(jnp.asarray(steps), jnp.asarray(values, jnp.float32))
    expected = [by_hand(s, v, 0.1, consecutive, interpolate) for s, v in zip(steps, values)]
    assert np.isinf(expected).any() and np.isfinite(expected).any()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    upwards = jax.vmap(lambda s, v: steps_to_result(s, -v, -0.1, mode="max", consecutive=consecutive))
    np.testing.assert_allclose(
        upwards(jnp.asarray(steps), jnp.asarray(values, jnp.float32)),
        [by_hand(s, v, 0.1, consecutive, False) for s, v in zip(steps, values)],
    )


def test_the_best_trial_is_the_fastest_that_reached_the_goal():
    index, fewest = best_over_trials(jnp.array([[jnp.nan, 7.0, 5.0, 5.0], [jnp.inf, jnp.nan, jnp.inf, jnp.inf]]))
    assert index.tolist() == [2, -1] and fewest.tolist() == [5.0, np.inf]


@pytest.mark.parametrize("factor", [2, 4])
def test_regimes_of_a_known_curve(factor):
    sizes = 8.0 * factor ** np.arange(12)
    a, b = 10.0, 8000.0
    found = scaling_regimes(sizes, jnp.asarray(a + b / sizes, jnp.float32), tolerance=0.1, least_gain=0.1)
    # above the line from (8, S(8)) by at most a tenth
    perfect = max(s for s in sizes if a + b / s <= 1.1 * (a + b / 8) * 8 / s)
    # further on a doubling never saves a tenth
    gains = 1 - ((a + b / sizes[1:]) / (a + b / sizes[:-1])) ** (1 / np.log2(factor))
    maximal = sizes[np.flatnonzero(gains >= 0.1)[-1] + 1]
    assert (float(found.perfect_until), float(found.maximal_from)) == (perfect, maximal)


def test_a_batch_size_that_fails_ends_perfect_scaling_and_saves_nothing():
    steps = jnp.array([400.0, 200.0, jnp.inf, 50.0, jnp.inf])
    found = scaling_regimes([8, 16, 32, 64, 128], steps)
    assert (float(found.perfect_until), float(found.maximal_from)) == (16, 64)
    assert np.isnan(scaling_regimes([8, 16], jnp.array([jnp.inf, 5.0])).perfect_until)
    assert np.isinf(scaling_regimes([8, 16, 32], jnp.array([40.0, 20.0, 10.0])).maximal_from)
    np.testing.assert_array_equal(perfect_scaling_line([4, 8, 16], jnp.array([jnp.inf, 6.0, 5.0])), [12, 6, 3])
    assert np.isnan(perfect_scaling_line([4, 8], jnp.full(2, jnp.inf))).all()


def test_halton_points_are_those_of_scipy():
    points = qmc.Halton(5, scramble=False).random(201)[1:]  # scipy begins at the origin
    np.testing.assert_allclose(halton_points(200, 5), points, atol=1e-6)


def test_edges_are_found_in_each_dimension():
    found = edge_of_search_space(jnp.array([-4.9, 0.0, 2.99, jnp.nan]), jnp.array([-5.0, -1, -1, -1]), 3.0)
    assert found.tolist() == [-1, 0, 1, 1]


def test_bad_input_is_named():
    ones = jnp.ones(3)
    bad = [
        (lambda: steps_to_result(ones, jnp.ones(4), 0.1), r"steps has shape \[3\], wanted \[4\]"),
        (lambda: steps_to_result(ones, ones, 0.1, mode="least"), "mode is 'least', wanted one of 'min', 'max'"),
        (lambda: steps_to_result(ones, ones, 0.1, consecutive=4), "consecutive is 4, wanted at most 3"),
        (lambda: best_over_trials(jnp.ones((2, 0))), "wanted at least one trial"),
        (lambda: perfect_scaling_line([8, 8, 16], ones), "wanted positive, increasing numbers"),
        (lambda: scaling_regimes([-8, 8, 16], ones), "wanted positive, increasing numbers"),
        (lambda: scaling_regimes([8, np.nan, 16], ones), "wanted positive, increasing numbers"),
        (lambda: scaling_regimes([4, 8, 16], ones, tolerance=-1), "tolerance is -1"),
        (lambda: scaling_regimes([4, 8, 16], ones, least_gain=1.0), "least_gain is 1.0"),
        (lambda: scaling_regimes([4, 8], ones), r"steps has shape \[3\], wanted \[2\]"),
        (lambda: edge_of_search_space(ones, jnp.zeros(2), 1.0), r"low has shape \[2\], wanted \[3\]"),
        (lambda: halton_points(4, 33), "dimensions is 33, wanted at most 32"),
        (lambda: halton_points(0, 2), "count is 0"),
        (lambda: jax.jit(lambda b: perfect_scaling_line(b, ones))(ones), "batch_sizes is traced"),
    ]
    for call, message in bad:
        with pytest.raises((TypeError, ValueError), match=message):
            call()
