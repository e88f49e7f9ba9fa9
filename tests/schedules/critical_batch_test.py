"""Fits against published points and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import curve_fit, least_squares

from minibatch_jax.schedules import (
    critical_batch_size,
    ewa_decay_for_batch,
    fit_critical_batch,
    fit_power_law,
    learning_rate_for_batch,
)

# Steps to the target loss at batch sizes 64, 128, ..., 16384 for models of so many million parameters, as published
# with the paper: plots/chinchilla.ipynb in github.com/hlzhang109/critical-batch-size.
BATCHES = 64.0 * 2 ** np.arange(9)
PUBLISHED = {
    85: [46000, 23000, 13282, 7000, 3840, 2528, 1917, 1600, 1600],
    151: [96000, 49000, 24000, 12000, 7128, 4350, 2940, 2400, 2300],
    302: [196000, 90000, 46000, 23400, 13300, 7224, 4980, 3400, 2879],
    604: [311000, 166000, 81000, 37440, 21320, 11400, 7199, 4700, 3800],
    1200: [642000, 331000, 176000, 94000, 46500, 25000, 15360, 8900, 6500],
}
CRITICAL = [745.3, 955.2, 1393.7, 1888.5, 2533.4]


def fits():
    steps = jnp.asarray(list(PUBLISHED.values()), jnp.float32)
    return jax.jit(jax.vmap(fit_critical_batch, (None, 0)))(jnp.asarray(BATCHES, jnp.float32), steps)


def test_published_points_give_the_published_critical_batch_sizes_and_law():
    found = fits()
    assert found.determined.all()
    sizes = critical_batch_size(found.a, found.b, 256)
    np.testing.assert_allclose(sizes, CRITICAL, atol=0.06)
    millions = jnp.asarray(list(PUBLISHED), jnp.float32)
    np.testing.assert_allclose(fit_power_law(millions, sizes), (93.197, 0.46828), rtol=1e-4)
    np.testing.assert_allclose(fit_power_law(millions, sizes, space="plain"), (99.51, 0.4576), rtol=1e-4)


def test_the_fit_is_that_of_scipy_in_the_logs():
    found = fits()
    for index, steps in enumerate(PUBLISHED.values()):

        def residuals(logs, steps=steps):
            return np.log(np.exp(logs[0]) + np.exp(logs[1]) / BATCHES) - np.log(steps)

        best = least_squares(residuals, np.log([steps[-1], steps[0] * BATCHES[0]]), xtol=1e-12, ftol=1e-12)
        np.testing.assert_allclose([found.a[index], found.b[index]], np.exp(best.x), rtol=3e-4)
        np.testing.assert_allclose(found.error[index], np.sqrt(np.mean(best.fun**2)), rtol=1e-4)


def test_the_plain_power_law_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 1e4, 9)
    y = 5 * x**0.3 * np.exp(rng.normal(scale=0.4, size=9))
    (coefficient, exponent), _ = curve_fit(lambda x, c, e: c * x**e, x, y, p0=(5, 0.3))
    found = fit_power_law(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), space="plain")
    np.testing.assert_allclose(found, (coefficient, exponent), rtol=1e-4)
    slope, level = np.polyfit(np.log(x), np.log(y), 1)
    found = fit_power_law(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(found, (np.exp(level), slope), rtol=1e-4)


def test_points_that_are_not_finite_or_not_positive_do_not_count():
    sizes = jnp.asarray([4, 16, 64, 256, 1024, 4096], jnp.float32)
    steps = jnp.asarray([20 + 800 / 4, jnp.inf, 20 + 800 / 64, jnp.nan, 20 + 800 / 1024, 0])
    found = fit_critical_batch(sizes, steps)
    np.testing.assert_allclose([found.a, found.b], [20, 800], rtol=1e-3)
    assert found.determined
    law = fit_power_law(jnp.asarray([1.0, 2.0, jnp.nan, 4.0]), jnp.asarray([3.0, 6.0, 1.0, 12.0]))
    np.testing.assert_allclose(law, (3, 1), rtol=1e-5)


@pytest.mark.parametrize("steps", [[400, 100, 25, 6.25], [30, 30, 30, 30], [400, jnp.inf, 25, jnp.inf]])
def test_data_that_do_not_show_both_parts_are_flagged(steps):
    found = fit_critical_batch(jnp.asarray([4.0, 16.0, 64.0, 256.0]), jnp.asarray(steps, jnp.float32))
    assert not found.determined and np.isfinite(found.a)


def test_too_few_points_give_nan():
    found = fit_critical_batch(jnp.asarray([4.0, 16.0]), jnp.asarray([jnp.inf, 9.0]))
    assert np.isnan(found.a) and np.isnan(found.b) and not found.determined
    assert np.isnan(fit_power_law(jnp.ones(3), jnp.arange(1.0, 4.0))).all()


@pytest.mark.parametrize("space", ["log", "plain"])
@pytest.mark.parametrize("x", [7.0, 0.1])
def test_points_at_one_x_give_no_law_and_at_two_batch_sizes_no_certainty(x, space):
    assert np.isnan(fit_power_law(jnp.full(11, x), jnp.arange(1.0, 12.0), space=space)).all()
    found = fit_critical_batch(x * jnp.array([16.0, 16.0, 64.0]), jnp.array([100.0, 102.0, 40.0]))
    assert np.isfinite(found.a) and not found.determined


@pytest.mark.parametrize("a, b, optimal", [(-1.0, 100.0, 16.0), (0.0, 100.0, 16.0), (1.0, -1.0, 16.0), (1.0, 1.0, 0.0)])
def test_a_fit_out_of_range_has_no_critical_batch(a, b, optimal):
    assert np.isnan(critical_batch_size(*jnp.array([a, b, optimal])))


def test_the_critical_batch_sees_a_fifth_more_examples():
    a, b, optimal = 12.0, 5000.0, 32
    size = float(critical_batch_size(a, b, optimal))
    assert a * size + b == pytest.approx(1.2 * (a * optimal + b), rel=1e-6)


def test_rules_for_another_batch_size_are_those_of_the_papers():
    assert ewa_decay_for_batch(0.99, 256, 1024) == pytest.approx(0.99**4)
    assert learning_rate_for_batch(0.3, 64, 64) == pytest.approx(0.15)  # half of it at the noise scale


def test_a_traced_noise_scale_out_of_range_has_no_rate():
    rates = jax.jit(lambda noise: learning_rate_for_batch(0.3, 64, noise))(jnp.array([64.0, 0.0, -80.0, jnp.nan]))
    np.testing.assert_allclose(rates, [0.15, 0.3, np.nan, np.nan], rtol=1e-6)


def test_an_average_of_parameters_is_made_of_two_functions_of_optax():
    decay, average, values = 0.9, jnp.zeros(()), np.array([3.0, -1.0, 2.0, 7.0], np.float32)
    for value in values:
        average = optax.incremental_update(jnp.asarray(value), average, 1 - decay)
    shares = decay ** np.arange(4)[::-1]
    np.testing.assert_allclose(optax.tree.bias_correction(average, decay, 4), shares @ values / shares.sum(), rtol=1e-6)


def test_bad_input_is_named():
    bad = [
        (lambda: fit_critical_batch(jnp.ones(3), jnp.ones(4)), r"steps has shape \[4\], wanted \[3\]"),
        (lambda: fit_critical_batch(jnp.ones(0), jnp.ones(0)), "batch_sizes has shape"),
        (lambda: fit_power_law(jnp.ones(3), jnp.ones(3), space="cube"), "space is 'cube', wanted one of"),
        (lambda: critical_batch_size(0.0, 1.0, 16), "a is 0.0, wanted a number in"),
        (lambda: critical_batch_size(1.0, 1.0, 0), "optimal_batch is 0"),
        (lambda: critical_batch_size(1.0, 1.0, 16, -0.1), "overhead is -0.1"),
        (lambda: ewa_decay_for_batch(1.5, 16, 32), "decay is 1.5"),
        (lambda: ewa_decay_for_batch(0.5, 16, -1), "new_batch_size is -1"),
        (lambda: learning_rate_for_batch(0.1, 0, 10), "batch_size is 0"),
        (lambda: learning_rate_for_batch(0.1, 16, -2.0), "noise_scale is -2.0"),
    ]
    for call, message in bad:
        with pytest.raises(ValueError, match=message):
            call()
