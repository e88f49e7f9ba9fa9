"""BiMix: known laws are recovered, no minimum of scipy is lower, the best mixture is that of a grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.mixing import bimix, bimix_mixture, fit_bimix, predict_bimix
from tests.mixing.oracles import grid_of_mixtures, huber_sum, lower_by

fit = functools.partial(jax.jit, static_argnames="num_starts")(fit_bimix)
mix = jax.jit(bimix_mixture)
ALPHA, SCALE, BETA, CONSTANT = np.array([[0.1, 0.3, 0.05], [9.0, 30.0, 4.0], [0.4, 0.6, 0.3], [1.5, 2.0, 1.0]])


def truth(proportions, steps):
    return (SCALE * steps[..., None] ** -BETA + CONSTANT) * proportions**-ALPHA


def runs(seed, noise=0.0, count=24):
    rng = np.random.default_rng(seed)
    proportions, steps = rng.dirichlet(np.ones(3), count).clip(0.01), 2.0 ** rng.integers(4, 12, count)
    return proportions, truth(proportions, steps) * np.exp(noise * rng.standard_t(2, size=(count, 3))), steps


def as_float32(*arrays):
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def test_known_laws_are_recovered():
    law = fit(*as_float32(*runs(0)), key=0, num_starts=16)
    np.testing.assert_allclose(law.proportion_exponents, ALPHA, rtol=5e-3)
    proportions, losses, steps = runs(9)
    predicted = predict_bimix(law, *as_float32(proportions, steps[:, None]))
    np.testing.assert_allclose(predicted, losses, rtol=2e-3)
    assert law.converged.all() and law.num_runs.tolist() == [24] * 3


def test_scipy_finds_no_lower_minimum_and_runs_without_a_loss_have_no_weight():
    proportions, losses, steps = runs(1, noise=0.02)
    kept = np.ones((24, 3), bool)
    kept[0], kept[1, 0], kept[2, 1], kept[3, 2] = False, False, False, False
    given = proportions.copy(), losses.copy(), steps.copy()
    given[2][0], given[0][1, 0], given[1][2, 1], given[1][3, 2] = -1.0, 1.5, np.nan, -2.0
    law = fit(*as_float32(*given), key=0, num_starts=16)
    assert law.num_runs.tolist() == [22] * 3 and law.converged.all()
    for domain in range(3):
        rows = kept[:, domain]
        logs = np.log(proportions[rows, domain]), np.log(steps[rows]), np.log(losses[rows, domain])

        def objective(params, logs=logs):
            """Of log alpha, log C, log B and log beta."""
            level = np.logaddexp(params[1], params[2] - np.exp(params[3]) * logs[1])
            return huber_sum(level - np.exp(params[0]) * logs[0] - logs[2], 0.01)

        at = np.log([law.proportion_exponents, law.constants, np.exp(law.log_step_scales), law.step_exponents])[
            :, domain
        ]
        assert objective(at) == pytest.approx(float(law.loss[domain]), rel=1e-3)
        assert lower_by(objective, at, float(law.loss[domain])) < 1e-4


def test_runs_that_differ_in_neither_proportion_nor_steps_do_not_determine_a_law():
    proportions, losses, steps = (np.resize(x[:3], x.shape) for x in runs(1))
    law = fit(*as_float32(proportions, losses, steps), key=0, num_starts=16)
    assert law.num_runs.tolist() == [24] * 3 and not law.converged.any()


def test_without_steps_the_law_is_a_power_of_the_proportion():
    proportions = np.random.default_rng(2).dirichlet(np.ones(3), 24)
    proportions[0] = [0.0, 0.5, 0.5]
    losses = CONSTANT * np.maximum(proportions, 0.01) ** -ALPHA
    law = jax.jit(fit_bimix)(*as_float32(proportions, losses), key=0, floor=0.01)
    np.testing.assert_allclose(law.proportion_exponents, ALPHA, rtol=1e-3)
    np.testing.assert_allclose(law.constants, CONSTANT, rtol=1e-3)
    np.testing.assert_allclose(predict_bimix(law, *as_float32(proportions)), losses, rtol=1e-3)


def known_law(alpha=ALPHA):
    arrays = as_float32(alpha, np.log(SCALE), BETA, CONSTANT, 1e-3, np.zeros(3))
    return bimix.BiMixLaw(*arrays[:5], arrays[5], jnp.ones(3, bool), jnp.ones(3, jnp.int32))


@pytest.mark.parametrize("steps", [4.0, 4096.0])
def test_the_best_mixture_is_that_of_a_grid(steps):
    targets = np.array([1.0, 2.0, 0.5])
    found = mix(known_law(), *as_float32(targets, steps))
    grid = grid_of_mixtures(200).clip(1e-9)
    losses = truth(grid, np.array(steps)) @ targets
    np.testing.assert_allclose(found, grid[losses.argmin()], atol=0.006)
    assert truth(np.asarray(found, float), np.array(steps)) @ targets <= losses.min() + 1e-6
    assert found.sum() == pytest.approx(1, abs=1e-6)


def test_equal_exponents_have_the_closed_form_and_a_domain_without_target_gets_nothing():
    law = known_law(np.full(3, 0.25))
    targets = np.array([1.0, 0.0, 3.0])
    levels = targets * (SCALE * 100.0**-BETA + CONSTANT)
    want = levels ** (1 / 1.25)
    np.testing.assert_allclose(mix(law, *as_float32(targets, 100.0)), want / want.sum(), atol=1e-5)
    np.testing.assert_allclose(mix(law, *as_float32(np.array([np.nan, -1.0, 0.0]), 100.0)), 1 / 3, rtol=1e-6)
    assert bimix_mixture(jax.tree.map(lambda x: x[:1] if x.ndim else x, law), jnp.ones(1)).tolist() == [1.0]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"losses": jnp.ones((5, 2))}, ValueError, r"losses has shape \[5, 2\], wanted \[5, 3\]"),
        ({"steps": jnp.ones(4)}, ValueError, r"steps has shape \[4\], wanted \[5\]"),
        (
            {"proportions": jnp.ones((3, 3)), "losses": jnp.ones((3, 3)), "steps": jnp.ones(3)},
            ValueError,
            "3 runs, wanted at least 4",
        ),
        ({"floor": 0.0}, ValueError, "floor is 0.0, wanted a number in"),
        ({"losses": jnp.ones((5, 3), int)}, TypeError, "losses has dtype int32"),
    ],
)
def test_bad_input_is_named(change, error, message):
    given = {"proportions": jnp.full((5, 3), 1 / 3), "losses": jnp.ones((5, 3)), "key": 0} | change
    with pytest.raises(error, match=message):
        fit_bimix(given.pop("proportions"), given.pop("losses"), given.pop("steps", None), **given)


def test_a_law_whose_scale_is_beyond_float32_predicts_between_its_runs():
    """Losses that fall by steps to the power of -6 around ten billion have B = 1e60."""
    proportions, steps = np.linspace(0.1, 0.9, 12)[:, None], np.geomspace(2e9, 5e10, 12)
    losses = proportions**-0.2 * (2 + (steps[:, None] / 1e10) ** -6)
    law = fit(*as_float32(proportions, losses, steps), key=0, num_starts=16)
    assert law.converged.all()
    np.testing.assert_allclose(predict_bimix(law, jnp.array([0.5]), 1e10), 0.5**-0.2 * 3, rtol=1e-3)
    np.testing.assert_allclose(mix(law, jnp.ones(1), 1e10), 1)
