"""Laws of one recipe's loss: planted numbers come back, and scipy's L-BFGS-B finds no better fit of noisy losses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from minibatch_jax import mixing

RNG = np.random.default_rng(0)
COMPUTE = np.geomspace(1e-3, 10, 9)
PAIRS = np.array(list(itertools.product((1e4, 1e5, 1e6, 1e7), (1e6, 1e7, 1e8))))
NUMBERS = {"two": (1.1, 0.12), "three": (0.4, 0.35, 1.8), "five": (3.0, 0.3, 4.0, 0.35, 1.2)}


def log_law(numbers, sizes):
    """Logarithm of the loss, from a, alpha, b, beta and maybe E."""
    logs = np.log(sizes.reshape(len(sizes), -1))
    terms = logs.shape[1]
    parts = np.reshape(numbers[0 : 2 * terms : 2], -1) - logs * np.reshape(numbers[1 : 2 * terms : 2], -1)
    limit = np.exp(parts).sum(1) + (numbers[-1] if len(numbers) % 2 else 0)
    return np.log(limit)


def fitted(name, losses, compute=COMPUTE):
    sizes = jnp.asarray(PAIRS if name == "five" else compute, jnp.float32)
    fit = jax.jit(mixing.fit_loss_law, static_argnames="limit")
    return fit(sizes, jnp.asarray(losses, jnp.float32), limit=name != "two")


def numbers_of(law, name):
    pairs = np.ravel(np.stack([law.log_scales, law.exponents], axis=1)).tolist()
    return [*pairs, *([float(law.limit)] if name != "two" else [])]


@pytest.mark.parametrize("name", NUMBERS)
def test_planted_numbers_are_recovered(name):
    sizes = PAIRS if name == "five" else COMPUTE
    law = fitted(name, np.exp(log_law(NUMBERS[name], sizes)))
    np.testing.assert_allclose(numbers_of(law, name), NUMBERS[name], rtol=5e-3 if name == "five" else 1e-3)
    assert bool(law.converged)
    beyond = 30 * sizes[-1:]
    found = mixing.predict_loss(law, jnp.asarray(beyond, jnp.float32))
    np.testing.assert_allclose(found, np.exp(log_law(NUMBERS[name], beyond)), rtol=1e-3)


@pytest.mark.parametrize("name", NUMBERS)
def test_no_start_of_scipy_finds_a_better_fit_of_noisy_losses(name):
    sizes = PAIRS if name == "five" else COMPUTE
    logs = log_law(NUMBERS[name], sizes) + 0.003 * RNG.normal(size=len(sizes))

    def objective(numbers):
        return 1e6 * np.sum(scipy.special.huber(1e-3, log_law(numbers, sizes) - logs))

    pairs = len(NUMBERS[name]) // 2
    bounds = [(None, None), (0, 1)] * pairs + [(1e-9, None)] * (len(NUMBERS[name]) % 2)
    starts = np.array(NUMBERS[name]) * RNG.uniform(0.7, 1.3, (3, len(NUMBERS[name])))
    best = min(scipy.optimize.minimize(objective, s, method="L-BFGS-B", bounds=bounds).fun for s in starts)
    law = fitted(name, np.exp(logs))
    assert objective(np.array(numbers_of(law, name))) <= 1.002 * best
    assert float(1e6 * law.loss) == pytest.approx(objective(np.array(numbers_of(law, name))), rel=0.02)


def test_points_that_are_no_losses_do_not_count_and_too_few_points_are_told():
    losses = np.exp(log_law(NUMBERS["three"], COMPUTE))
    spoiled = np.where(np.arange(9) == 3, np.nan, losses)
    np.testing.assert_allclose(numbers_of(fitted("three", spoiled), "three"), NUMBERS["three"], rtol=1e-3)
    few = np.where(np.arange(9) < 3, losses, -1.0)
    assert not bool(fitted("three", few).converged)
    two_sizes = np.resize(COMPUTE[:2], 9)
    assert not bool(fitted("three", np.exp(log_law(NUMBERS["three"], two_sizes)), two_sizes).converged)
    nothing = fitted("three", np.full(9, np.nan))
    assert not bool(nothing.converged) and all(np.all(np.isfinite(part)) for part in nothing[:3])


def curve(losses, low, high, slope, middle):
    return low + (high - low) * scipy.special.expit(slope * (middle - losses))


def test_an_accuracy_curve_is_the_one_of_scipy():
    losses = RNG.uniform(1.5, 4.0, 40)
    noisy = curve(losses, 0.25, 0.8, 4.0, 2.6) + 0.01 * RNG.normal(size=40)
    known, _ = scipy.optimize.curve_fit(curve, losses, noisy, (0.3, 0.7, 3.0, 2.5))
    spoiled = jnp.asarray(np.append(noisy, np.nan), jnp.float32), jnp.asarray(np.append(losses, 2.0), jnp.float32)
    found = jax.jit(mixing.fit_accuracy_curve)(spoiled[1], spoiled[0])
    np.testing.assert_allclose(found[:4], known, rtol=2e-3)
    assert float(found.error) == pytest.approx(np.sqrt(np.mean((curve(losses, *known) - noisy) ** 2)), rel=1e-3)
    np.testing.assert_allclose(
        mixing.predict_accuracy(found, jnp.asarray(losses, jnp.float32)), curve(losses, *known), atol=1e-3
    )
    assert bool(found.converged)
    repeated = jnp.asarray(np.resize(losses[:3], 41), jnp.float32), jnp.asarray(np.resize(noisy[:3], 41), jnp.float32)
    assert not bool(jax.jit(mixing.fit_accuracy_curve)(*repeated).converged)


@pytest.mark.parametrize(
    "call,error,message",
    [
        (lambda: mixing.fit_loss_law(jnp.ones(4), jnp.ones(3)), ValueError, r"losses has shape \[3\], wanted \[4\]"),
        (lambda: mixing.fit_loss_law(jnp.ones(4), jnp.ones(4), delta=0.0), ValueError, "delta is 0.0, wanted"),
        (lambda: mixing.fit_loss_law(jnp.arange(4), jnp.ones(4)), TypeError, "sizes has dtype int32, wanted"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
