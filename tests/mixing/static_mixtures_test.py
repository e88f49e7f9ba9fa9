import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq

from minibatch_jax import mixing
from minibatch_jax.mixing import mix_by_temperature, temperature_mixture, unimax_mixture
from tests.case import Case
from tests.mixing import draws

CASES = {
    "mix_by_temperature": Case(
        lambda: mixing.mix_by_temperature(2.0), lambda rng: {}, draws.uneven, lowers_mass=False, tolerance=1e-5
    )
}
SIZES = np.array([5.0, 900.0, 60.0, 0.0, 60.0, 12_000.0])
unimax, tempered = jax.jit(unimax_mixture), jax.jit(temperature_mixture)


def by_bisection(sizes, budget, max_epochs):
    """The level at which the domains take the whole budget, found as a root."""
    limits = max_epochs * sizes
    if limits.sum() <= budget:
        return limits
    level = brentq(lambda x: np.minimum(x, limits).sum() - budget, 0, limits.max(), xtol=1e-12, rtol=1e-14)
    return np.minimum(level, limits)


@pytest.mark.parametrize("max_epochs", [0.5, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize("budget", [1.0, 100.0, 900.0, 30_000.0, 1e6])
def test_unimax_equals_bisection(budget, max_epochs):
    found, takes = unimax(SIZES, budget, max_epochs), by_bisection(SIZES, budget, max_epochs)
    np.testing.assert_allclose(found.mixture, takes / takes.sum(), rtol=2e-5)
    np.testing.assert_allclose(found.epochs, np.divide(takes, SIZES, where=SIZES > 0, out=0 * SIZES), rtol=2e-5)
    np.testing.assert_allclose(found.unspent, budget - takes.sum(), rtol=1e-5, atol=1e-6 * budget)
    assert np.all(found.epochs <= max_epochs * (1 + 1e-5))


def by_turns(sizes, budget, max_epochs):
    """As published: from the smallest, each takes an equal part of what is left, or all that it may."""
    takes, left = np.zeros(len(sizes)), budget
    for turn, k in enumerate(np.argsort(sizes, kind="stable")):
        takes[k] = min(left / (len(sizes) - turn), max_epochs * sizes[k])
        left -= takes[k]
    return takes


def test_unimax_equals_the_published_loop_on_random_sizes():
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes = np.round(rng.pareto(0.5, 6) * 10)
        budget, epochs = rng.uniform(0.05, 3) * sizes.sum() + 1, rng.uniform(0.2, 3)
        takes = by_turns(sizes, budget, epochs)
        if takes.sum() > 0:
            np.testing.assert_allclose(unimax(sizes, budget, epochs).mixture, takes / takes.sum(), rtol=1e-4, atol=1e-7)


def test_any_number_of_epochs_gives_the_uniform_mixture_and_a_small_budget_too():
    for budget, epochs in ((100.0, np.inf), (100.0, 1e9), (1.0, 1.0)):
        found = unimax_mixture([5, 900, 0, 60], budget, epochs)
        np.testing.assert_allclose(found.mixture, [1 / 3, 1 / 3, 0, 1 / 3], rtol=1e-6)
        assert found.unspent == 0


def test_sizes_beyond_int32_count_in_full():
    sizes = [3 * 10**12, 10**12]
    np.testing.assert_allclose(temperature_mixture(sizes, 1.0), [0.75, 0.25], rtol=1e-6)
    np.testing.assert_allclose(unimax_mixture(sizes, 2.0 * 10**13, 4).mixture, [0.75, 0.25], rtol=1e-6)
    assert abs(float(unimax_mixture(sizes, 2.0 * 10**13, 4).unspent) / 4e12 - 1) < 1e-5


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1 / 0.3, 5.0])
def test_temperature_is_a_power_of_the_capped_sizes(temperature):
    expected = np.minimum(2.0 * SIZES, 1500.0) ** (1 / temperature)
    found = temperature_mixture(SIZES, temperature, scale=2.0, cap=1500.0)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)


def test_limits_of_the_temperature():
    np.testing.assert_allclose(temperature_mixture(SIZES, 1.0), SIZES / SIZES.sum(), rtol=1e-6)
    np.testing.assert_allclose(temperature_mixture(SIZES, np.inf), (SIZES > 0) / 5, rtol=1e-6)
    assert temperature_mixture([7], 3.0).tolist() == [1.0] and unimax_mixture([7], 3.0, 1).mixture.tolist() == [1.0]
    for cold in (1e-3, 1e-30):
        assert temperature_mixture(SIZES, cold).tolist() == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_temperature_or_a_budget_that_is_none_gives_zeros_in_jit(value):
    value = jnp.float32(value)
    assert tempered(SIZES, value).tolist() == [0] * 6 == unimax(SIZES, value, 1.0).mixture.tolist()
    assert unimax(SIZES, 1.0, value).epochs.tolist() == [0] * 6


def test_a_chain_starts_from_the_tempered_mixture_and_a_schedule_changes_it():
    tx = optax.inject_hyperparams(mix_by_temperature)(temperature=lambda step: 1.0 + step.astype(jnp.float32))
    prior = jnp.array([0.1, 0.9])
    first, state = tx.update(prior, tx.init(prior))
    second, _ = tx.update(prior, state)
    np.testing.assert_allclose(first, prior, rtol=1e-6)
    np.testing.assert_allclose(second, [0.25, 0.75], rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sizes_in_half_precision_are_added_in_float32(dtype):
    sizes = jnp.full(3000, 3.0, dtype)
    for found in (temperature_mixture(sizes, 2.0), unimax_mixture(sizes, 10.0, 1.0).mixture):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, 1 / 3000, rtol=1e-4)


@pytest.mark.parametrize(
    "make", [lambda s: temperature_mixture(s, 2.0), lambda s: unimax_mixture(s, 100.0, 2.0).mixture]
)
def test_bad_sizes_have_weight_zero_in_jit(make):
    found = jax.jit(make)(jnp.array([30.0, -5.0, jnp.nan, 30.0, jnp.inf]))
    np.testing.assert_allclose(found, [0.5, 0, 0, 0.5, 0], rtol=1e-6)
    assert jax.jit(make)(jnp.zeros(5)).tolist() == [0, 0, 0, 0, 0]


BAD = {
    "negative": (lambda: temperature_mixture([1, -1], 1.0), ValueError, "sizes has a negative or non-finite entry"),
    "nan": (lambda: unimax_mixture([1, np.nan], 1.0, 1.0), ValueError, "sizes has a negative or non-finite entry"),
    "zeros": (
        lambda: temperature_mixture(jnp.zeros(2), 1.0),
        ValueError,
        "sizes is 0 everywhere, wanted a domain with",
    ),
    "rank": (lambda: unimax_mixture(3.0, 1.0, 1.0), ValueError, r"sizes has shape \[\], wanted"),
    "none": (lambda: temperature_mixture([], 1.0), ValueError, r"sizes has shape \[0\], wanted"),
    "temperature": (lambda: mix_by_temperature(0.0), ValueError, r"temperature is 0.0, wanted a number in \(0, inf\)"),
    "cap": (lambda: temperature_mixture([1], 1.0, cap=0), ValueError, r"cap is 0, wanted a number in \(0, inf\)"),
    "budget": (lambda: unimax_mixture([1], -1.0, 1), ValueError, r"budget is -1.0, wanted a number in \(0, inf\)"),
    "epochs": (lambda: unimax_mixture([1], 1.0, 0), ValueError, r"max_epochs is 0, wanted a number in \(0, inf\)"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
