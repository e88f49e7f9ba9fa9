"""Laws of size: known curves are recovered with their exponent, no minimum of scipy is lower."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.mixing import fit_size_law, predict_at_size
from tests.mixing.oracles import huber_sum, lower_by

fit = functools.partial(jax.jit, static_argnames="num_starts")(fit_size_law)
SIZES = np.array([1e6, 3e6, 1e7, 3e7, 1e8, 3e8])
LIMITS, SCALES, EXPONENT = np.array([1.8, 2.5]), np.array([40.0, 90.0]), 0.28


def truth(sizes):
    return LIMITS + SCALES * sizes[:, None] ** -EXPONENT


def as_float32(*arrays):
    return tuple(jnp.asarray(x, jnp.float32) for x in arrays)


def test_curves_are_recovered_and_extrapolated():
    law = fit(*as_float32(SIZES, truth(SIZES)), key=0, num_starts=16)
    assert law.exponent == pytest.approx(EXPONENT, rel=5e-3) and law.converged
    np.testing.assert_allclose(predict_at_size(law, 1e10), truth(np.array([1e10]))[0], rtol=2e-3)


def test_scipy_finds_no_lower_minimum_and_points_without_a_loss_have_no_weight():
    losses = truth(SIZES) + 0.01 * np.random.default_rng(0).standard_t(2, size=(6, 2))
    given, sizes = losses.copy(), SIZES.copy()
    given[1, 0], sizes[2] = np.nan, -1.0
    law = fit(*as_float32(sizes, given), key=0, num_starts=16)
    kept = np.ones((6, 2), bool)
    kept[1, 0], kept[2] = False, False

    def objective(params):
        falls = np.exp(params[2:4]) * (SIZES[:, None] / float(law.reference)) ** -np.exp(params[4])
        return huber_sum((np.exp(params[:2]) + falls - losses)[kept], 0.01)

    at = np.log(np.concatenate([law.limits, law.scales, [law.exponent]]))
    assert objective(at) == pytest.approx(float(law.loss), rel=1e-3)
    assert lower_by(objective, at, float(law.loss)) < 1e-4
    assert law.converged


def test_too_few_losses_are_named_or_flagged():
    with pytest.raises(ValueError, match="losses has 4 numbers, wanted at least 5"):
        fit_size_law(jnp.ones(2), jnp.ones((2, 2)), key=0)
    with pytest.raises(ValueError, match=r"losses has shape \[2, 2\], wanted \[3, any size > 0\]"):
        fit_size_law(jnp.ones(3), jnp.ones((2, 2)), key=0)
    given = np.where(np.arange(6)[:, None] < 5, np.nan, truth(SIZES))
    law = fit(*as_float32(SIZES, given), key=0, num_starts=16)
    assert not law.converged and all(np.isfinite(x).all() for x in law)
    one_size = np.full_like(SIZES, SIZES[0])
    assert not fit(*as_float32(one_size, truth(one_size)), key=0, num_starts=16).converged
