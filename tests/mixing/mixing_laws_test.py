"""Mixing laws: known laws are recovered, no minimum of scipy is lower, and rows that are no runs have no weight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.mixing import fit_mixing_law, predict_losses
from tests.mixing.oracles import grid_of_mixtures, huber_sum, lower_by

fit = functools.partial(jax.jit, static_argnames=("num_terms", "num_starts"))(fit_mixing_law)
CONSTANTS, SCALES = np.array([2.0, 1.5]), np.array([0.6, 1.2])
SLOPES = np.array([[-3.0, 0.5, 0.2], [0.4, -1.0, -2.5]])


def truth(mixtures):
    return CONSTANTS + SCALES * np.exp(mixtures @ SLOPES.T)


def runs(seed, count=20, noise=0.0):
    rng = np.random.default_rng(seed)
    mixtures = rng.dirichlet(np.ones(3), count)
    return mixtures, truth(mixtures) + noise * rng.standard_t(2, size=(count, 2))


def objective(flat, mixtures, losses, delta, ridge, terms):
    """As the docstring writes it, of one validation domain; c and k by their logarithms."""
    log_c, log_k, slopes = flat[0], flat[1 : 1 + terms], flat[1 + terms :].reshape(terms, -1)
    predicted = np.exp(log_c) + np.exp(log_k + mixtures @ slopes.T).sum(axis=1)
    centered = slopes - slopes.mean(axis=1, keepdims=True)
    return huber_sum(predicted - losses, delta) + ridge / 2 * (centered**2).sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_known_laws_are_recovered_from_twenty_runs_without_noise(dtype):
    mixtures, losses = runs(0)
    with jax.enable_x64(dtype == np.float64):
        law = fit(jnp.asarray(mixtures, dtype), jnp.asarray(losses, dtype), key=0, num_starts=8)
        grid = grid_of_mixtures(10)
        error = np.abs(predict_losses(law, jnp.asarray(grid, dtype)) - truth(grid)).max()
    assert error < (1e-3 if dtype == np.float32 else 1e-7) and law.constant.dtype == dtype
    np.testing.assert_allclose(law.constant, CONSTANTS, atol=5e-3)
    np.testing.assert_allclose(law.slopes[:, 0], SLOPES - SLOPES.mean(axis=1, keepdims=True), atol=0.05)
    assert law.converged.all() and law.num_runs.tolist() == [20, 20]


@pytest.mark.parametrize("seed, ridge", [(1, 0.0), (3, 0.02)])
def test_scipy_finds_no_lower_minimum(seed, ridge):
    """Noise with heavy tails, so that many residuals are in the linear part of the loss."""
    mixtures, losses = runs(seed, noise=0.05)
    law = fit(jnp.asarray(mixtures, jnp.float32), jnp.asarray(losses, jnp.float32), key=seed, num_starts=8, ridge=ridge)
    for column in range(2):
        at = np.concatenate([[np.log(law.constant[column])], np.log(law.scales[column]), law.slopes[column].ravel()])
        function = functools.partial(
            objective, mixtures=mixtures, losses=losses[:, column], delta=0.05, ridge=ridge, terms=1
        )
        value = float(law.loss[column])
        assert function(at) == pytest.approx(value, rel=1e-4)
        assert lower_by(function, at, value) < 1e-4
    assert law.converged.all()


def test_two_terms_fit_a_mean_of_two_laws_and_scipy_finds_no_lower_minimum_near():
    mixtures, losses = runs(4, noise=0.003)
    mixed = losses.mean(axis=1)
    two = fit(jnp.asarray(mixtures, jnp.float32), jnp.asarray(mixed, jnp.float32), key=0, num_terms=2, num_starts=8)
    at = np.concatenate([[np.log(two.constant)], np.log(two.scales), two.slopes.ravel()])
    function = functools.partial(objective, mixtures=mixtures, losses=mixed, delta=0.05, ridge=0.0, terms=2)
    assert lower_by(function, at, float(two.loss), moved=0) < 1e-3
    grid = grid_of_mixtures(10)
    np.testing.assert_allclose(predict_losses(two, jnp.asarray(grid, jnp.float32)), truth(grid).mean(axis=1), atol=0.03)


def test_rows_that_are_no_runs_have_no_weight():
    mixtures, losses = (np.asarray(x, np.float32) for x in runs(5, noise=0.05))
    kept = np.arange(20) >= 4
    mixtures[0], losses[0] = [0.5, 0.5, 0.5], 99.0
    mixtures[1], losses[1] = [1.5, -0.5, 0.0], -99.0
    mixtures[2] = [np.nan, 1.0, 0.0]
    losses[3], losses[4, 1] = [np.nan, np.inf], np.nan
    law = fit(jnp.asarray(mixtures), jnp.asarray(losses), key=0, num_starts=8)
    assert law.num_runs.tolist() == [16, 15] and law.converged.all()
    for column, rows in ((0, kept), (1, kept & (np.arange(20) != 4))):
        at = np.concatenate([[np.log(law.constant[column])], np.log(law.scales[column]), law.slopes[column].ravel()])
        want = objective(at, mixtures[rows], losses[rows, column], 0.05, 0.0, 1)
        assert float(law.loss[column]) == pytest.approx(want, rel=1e-4)
    few = fit(
        jnp.asarray(mixtures), jnp.where(jnp.arange(20)[:, None] < 8, jnp.asarray(losses), jnp.nan), key=0, num_starts=8
    )
    assert few.num_runs.tolist() == [4, 3] and few.converged.tolist() == [few.converged[0], False]
    assert all(np.isfinite(x).all() for x in few)


def test_runs_that_repeat_three_mixtures_do_not_determine_a_law_of_four_numbers():
    mixtures, losses = (np.resize(x[:3], x.shape) for x in runs(5))
    law = fit(jnp.asarray(mixtures, jnp.float32), jnp.asarray(losses, jnp.float32), key=0, num_starts=8)
    assert law.num_runs.tolist() == [20, 20] and not law.converged.any()


def test_proportions_that_were_rounded_are_divided_by_their_sum():
    mixtures, losses = (np.asarray(x, np.float32) for x in runs(6))
    scaled = mixtures * np.linspace(0.995, 1.005, 20, dtype=np.float32)[:, None]
    law, same = (fit(jnp.asarray(x), jnp.asarray(losses), key=0, num_starts=8) for x in (mixtures, scaled))
    points = jnp.asarray(mixtures)
    np.testing.assert_allclose(predict_losses(law, points), predict_losses(same, points), atol=1e-3)
    assert same.num_runs.tolist() == [20, 20]


def test_predictions_have_the_derivative_of_finite_differences_and_are_convex():
    mixtures, losses = runs(7)
    with jax.enable_x64(True):
        law = fit(jnp.asarray(mixtures), jnp.asarray(losses), key=0, num_starts=8)
        at, way = jnp.array([0.2, 0.3, 0.5]), jnp.array([1.0, -0.4, -0.6])
        value, slope = jax.jvp(functools.partial(predict_losses, law), (at,), (way,))
        behind, before = (predict_losses(law, at + step * way) for step in (-1e-5, 1e-5))
        np.testing.assert_allclose(slope, (before - behind) / 2e-5, rtol=1e-6)
        assert (behind + before - 2 * value > 0).all()


@pytest.mark.parametrize(
    "change, error, message",
    [
        (
            {"mixtures": jnp.ones((5, 3))},
            ValueError,
            r"mixtures has rows that sum to 3, wanted proportions that sum to 1",
        ),
        ({"mixtures": jnp.ones((5, 1))}, ValueError, "mixtures has 1 domain, wanted at least 2"),
        ({"losses": jnp.ones(4)}, ValueError, r"losses has shape \[4\], wanted \[5\]"),
        ({"losses": jnp.arange(5)}, TypeError, "losses has dtype int32"),
        ({"num_terms": 2}, ValueError, "mixtures has 5 runs, wanted at least 7 for a law of 3 domains without ridge"),
        ({"delta": 0.0}, ValueError, "delta is 0.0, wanted a number in"),
        ({"ridge": -1.0}, ValueError, "ridge is -1.0, wanted a number in"),
        ({"num_starts": 0}, ValueError, "num_starts is 0, wanted at least 1"),
    ],
)
def test_bad_input_is_named(change, error, message):
    given = {"mixtures": jnp.full((5, 3), 1 / 3), "losses": jnp.ones(5), "key": 0} | change
    with pytest.raises(error, match=message):
        fit_mixing_law(given.pop("mixtures"), given.pop("losses"), **given)
