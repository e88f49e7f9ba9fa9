"""Ambient diffusion against closed forms of a linear Gaussian problem, scipy's distributions, and plain diffusion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from minibatch_jax import mixing, value_and_grad
from tests.case import ROWS, Case
from tests.half_precision import DTYPES, check_like_float32, grid


def levels_and_corruption(rng):
    """Levels above and below the corruption of the example; a quarter of the examples are clean."""
    corruption = rng.uniform(0.1, 1.0, ROWS) * (np.arange(ROWS) % 4 > 0)
    return {
        "noise_levels": np.exp(rng.normal(-0.5, 1.0, ROWS)).astype(np.float32),
        "corruption": corruption.astype(np.float32),
    }


CASES = {"reweigh_by_noise_level": Case(mixing.reweigh_by_noise_level, levels_and_corruption)}

RNG = np.random.default_rng(0)
CORRUPTION = jnp.array([0.0, 0.0, 0.2, 0.2, 0.5, 0.5], jnp.float32)
LEVELS = jnp.array([0.03, 2.0, 0.21, 1.0, 0.5, 0.4], jnp.float32)  # the last two are not above the corruption
EXAMPLES, DENOISED = jnp.asarray(RNG.normal(size=(2, 6, 3)), jnp.float32)
INPUTS = mixing.ambient_inputs(1, EXAMPLES, LEVELS, CORRUPTION)


def ambient_losses(denoised, levels=LEVELS, corruption=CORRUPTION):
    predictions = mixing.ambient_predictions(denoised, INPUTS, levels, corruption)
    return jnp.sum((predictions - EXAMPLES) ** 2, axis=1)


def target_losses(denoised, batch=None):
    return jnp.sum((denoised - mixing.ambient_targets(EXAMPLES, INPUTS, LEVELS, CORRUPTION)) ** 2, axis=1)


def test_for_clean_examples_it_is_plain_diffusion_exactly():
    clean = jnp.zeros(6)
    noise = jax.random.normal(jax.random.key(1), EXAMPLES.shape)
    inputs = mixing.ambient_inputs(1, EXAMPLES, LEVELS, clean)
    np.testing.assert_allclose(inputs, EXAMPLES + LEVELS[:, None] * noise, rtol=1e-6)
    np.testing.assert_array_equal(mixing.ambient_predictions(DENOISED, inputs, LEVELS, clean), DENOISED)
    np.testing.assert_array_equal(mixing.ambient_targets(EXAMPLES, inputs, LEVELS, clean), EXAMPLES)
    np.testing.assert_array_equal(mixing.ambient_weights(LEVELS, clean), jnp.ones(6))


def test_gradient_is_that_of_the_weighted_squared_error_to_the_targets_and_0_at_the_own_level():
    gradient = jax.grad(lambda x: jnp.sum(ambient_losses(x)))(DENOISED)
    weights = mixing.ambient_weights(LEVELS, CORRUPTION)
    np.testing.assert_allclose(weights[2:4], (1 - np.array([0.2 / 0.21, 0.2]) ** 2) ** 2, rtol=1e-5)
    expected = jax.grad(lambda x: jnp.sum(weights * target_losses(x)))(DENOISED)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(gradient[4:], np.zeros((2, 3)))
    assert np.all(np.abs(gradient[:4]) > 0)


def test_the_transformation_gives_the_ambient_gradient():
    tx = mixing.reweigh_by_noise_level()

    def losses(denoised, batch):
        return target_losses(denoised), {"noise_levels": LEVELS, "corruption": CORRUPTION}

    _, gradient, _ = value_and_grad(losses, tx, has_aux=True)(DENOISED, EXAMPLES, tx.init(jnp.ones(6)))
    np.testing.assert_allclose(
        gradient, jax.grad(lambda x: jnp.mean(ambient_losses(x)))(DENOISED), rtol=1e-4, atol=1e-6
    )


def test_a_linear_gaussian_problem_has_the_known_conditional_means():
    """Clean examples are N(1, 0.7^2), so every mean given the input is a line."""
    clean, spread, corruption, level = 1.0, 0.7, 0.4, 0.9
    rng = np.random.default_rng(3)
    size = 200_000
    examples = clean + spread * rng.normal(size=(size, 1)) + corruption * rng.normal(size=(size, 1))
    examples = jnp.asarray(examples, jnp.float32)
    levels, came = jnp.full(size, level), jnp.full(size, corruption)
    inputs = mixing.ambient_inputs(5, examples, levels, came)
    total = spread**2 + level**2
    assert float(jnp.var(inputs)) == pytest.approx(total, rel=0.02)
    denoised = clean + spread**2 / total * (inputs - clean)
    as_it_came = clean + (spread**2 + corruption**2) / total * (inputs - clean)
    np.testing.assert_allclose(
        mixing.ambient_predictions(denoised, inputs, levels, came), as_it_came, rtol=1e-5, atol=1e-5
    )
    targets = mixing.ambient_targets(examples, inputs, levels, came)
    line = np.polyfit(np.asarray(inputs)[:, 0], np.asarray(targets)[:, 0], 1)
    np.testing.assert_allclose(line, [spread**2 / total, clean - clean * spread**2 / total], atol=0.01)


def test_resampled_levels_are_a_truncated_log_normal():
    corruption = jnp.repeat(jnp.array([0.0, 0.2, 3.0, 20.0]), 4000)
    drawn = np.asarray(mixing.ambient_noise_levels(0, corruption)).reshape(4, 4000)
    for logs, low in zip(np.log(drawn), (-np.inf, *((np.log([0.2, 3.0, 20.0]) + 1.2) / 1.2))):
        known = scipy.stats.truncnorm(low, np.inf, loc=-1.2, scale=1.2)
        assert scipy.stats.kstest(logs, known.cdf).pvalue > 0.01


def test_clamped_levels_are_a_log_normal_with_an_atom_at_the_corruption():
    levels = np.asarray(mixing.ambient_noise_levels(0, jnp.full(4000, 0.2), mode="clamp"))
    wasted = np.mean(levels == np.float32(0.2))
    assert wasted == pytest.approx(scipy.stats.norm.cdf((np.log(0.2) + 1.2) / 1.2), abs=0.025)
    known = scipy.stats.truncnorm((np.log(0.2) + 1.2) / 1.2, np.inf, loc=-1.2, scale=1.2)
    assert scipy.stats.kstest(np.log(levels[levels > np.float32(0.2)]), known.cdf).pvalue > 0.01


@pytest.mark.parametrize("level,corruption", [(np.nan, 0.1), (np.inf, 0.1), (-1.0, 0.0), (1.0, np.nan), (1.0, -0.1)])
def test_what_is_no_level_has_weight_0_and_spreads_nothing(level, corruption):
    levels, came = LEVELS.at[0].set(level), CORRUPTION.at[0].set(corruption)
    assert mixing.ambient_weights(levels, came).tolist()[0] == 0
    gradient = jax.grad(lambda x: jnp.sum(ambient_losses(x, levels, came)))(DENOISED)
    np.testing.assert_array_equal(gradient[0], np.zeros(3))
    assert np.all(np.isfinite(mixing.ambient_targets(EXAMPLES, INPUTS, levels, came)))
    drawn = mixing.ambient_noise_levels(0, came)
    assert float(mixing.ambient_weights(drawn, came)[0]) == 0 or corruption == 0.0 or corruption == 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_is_computed_in_float32(dtype):
    levels, came, x, y = grid(0, 6, low=0.5), grid(1, 6, high=0.75), grid(2, 6, 2), grid(3, 6, 2)

    def all_of_them(cast):
        levels_and_came = cast(levels), cast(came)
        return (
            mixing.ambient_weights(*levels_and_came),
            mixing.ambient_inputs(0, cast(x), *levels_and_came),
            mixing.ambient_predictions(cast(x), cast(y), *levels_and_came),
            mixing.ambient_targets(cast(x), cast(y), *levels_and_came),
            mixing.ambient_noise_levels(0, cast(came)),
        )

    check_like_float32(all_of_them, dtype)


@pytest.mark.parametrize(
    "call,error,message",
    [
        (
            lambda: mixing.ambient_weights(LEVELS, CORRUPTION[:3]),
            ValueError,
            r"corruption has shape \[3\], wanted \[6\]",
        ),
        (lambda: mixing.ambient_targets(EXAMPLES, INPUTS[:, :2], LEVELS, CORRUPTION), ValueError, "inputs has shape"),
        (lambda: mixing.ambient_noise_levels(0, CORRUPTION, mode="cut"), ValueError, "mode is 'cut', wanted one of"),
        (lambda: mixing.ambient_noise_levels(0, CORRUPTION, log_std=0.0), ValueError, "log_std is 0.0, wanted"),
        (lambda: mixing.ambient_inputs(0, EXAMPLES[:3], LEVELS, CORRUPTION), ValueError, "examples has shape"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
