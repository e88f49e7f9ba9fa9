import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws as drawn

CASES = {
    "keep_by_power": Case(lambda: selection.keep_by_power(0.5, 0.5, key=0), drawn.surrogate),
}


B = 12
inclusion = jax.jit(lambda u, share, alpha: selection.power_inclusion(u, share, alpha))


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(seed=st.integers(0, 1000), share=st.floats(0.05, 1.0), alpha=st.floats(-2, 2))
def test_inclusion_is_what_a_root_finder_gives(seed, share, alpha):
    u = np.random.default_rng(seed).gamma(0.5, size=B) + 1e-3
    powers = (u / u.max()) ** alpha
    expect = np.ones(B)
    if share < 1:
        gap = lambda log_c: np.minimum(1, np.exp(log_c) * powers).sum() - share * B  # noqa: E731
        expect = np.minimum(1, np.exp(scipy.optimize.brentq(gap, -60, 60, xtol=1e-12)) * powers)
    actual = np.asarray(inclusion(jnp.asarray(u, jnp.float32), share, alpha))
    np.testing.assert_allclose(actual, expect, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(actual.sum(), share * B, rtol=1e-4)


def test_inclusion_is_monotone_and_alpha_zero_is_uniform():
    u = jnp.asarray(np.sort(np.random.default_rng(0).gamma(1.0, size=B)), jnp.float32)
    for alpha in (0.5, 2.0):
        assert np.all(np.diff(inclusion(u, 0.4, alpha)) >= 0) and np.all(np.diff(inclusion(u, 0.4, -alpha)) <= 0)
    np.testing.assert_allclose(inclusion(u, 0.3, 0.0), 0.3, rtol=1e-6)


def test_items_that_do_not_exist_do_not_count():
    u = np.random.default_rng(1).gamma(1.0, size=B).astype(np.float32)
    exists = np.arange(B) % 3 != 0
    expected = selection.power_inclusion(jnp.asarray(u[exists]), 0.4, 1.0)
    for spoilt, where in ((u, exists), (np.where(exists, u, np.nan), None), (np.where(exists, u, 0), None)):
        actual = selection.power_inclusion(jnp.asarray(spoilt), 0.4, 1.0, where=None if where is None else where)
        np.testing.assert_allclose(actual[exists], expected, rtol=1e-5)
        np.testing.assert_array_equal(actual[~exists], 0)


def test_uncertainty_is_the_variance_of_the_label():
    p = np.array([0.5, 0.9, 1 - 1e-9])
    logits = jnp.asarray(np.stack([np.log(p / (1 - p)), np.zeros(3)], 1), jnp.float32)
    np.testing.assert_allclose(
        selection.power_sampling.surrogate_uncertainty(logits), np.maximum(2 * p * (1 - p), 2e-6), rtol=1e-4
    )


@pytest.mark.parametrize("unbiased", [False, True])
def test_law_of_the_kept_weights(unbiased):
    logits = jnp.asarray(np.random.default_rng(2).normal(0, 2, (B, 3)), jnp.float32)
    weights = jnp.linspace(0.5, 1.5, B)
    tx = selection.keep_by_power(0.4, 1.0, 0, weighting="unbiased" if unbiased else "own")
    draws = 20_000

    def one(key):
        return tx.update(weights, tx.init(weights)._replace(rng_key=key), teacher_logits=logits)[0]

    kept = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), draws)), float)
    pi = np.asarray(selection.power_inclusion(selection.power_sampling.surrogate_uncertainty(logits), 0.4, 1.0), float)
    expected = np.asarray(weights) * (1 if unbiased else pi)
    assert np.all(np.abs(kept.mean(0) - expected) <= 5 * kept.std(0) / np.sqrt(draws) + 1e-6)
    np.testing.assert_allclose((kept > 0).mean(0), pi, atol=0.02)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="fraction is 0"):
        selection.keep_by_power(0.0, 1.0, 0)
    with pytest.raises(ValueError, match="alpha is nan"):
        selection.keep_by_power(0.5, float("nan"), 0)
    with pytest.raises(TypeError, match="uncertainty has dtype int32"):
        selection.power_inclusion(jnp.arange(3), 0.5, 1.0)
    with pytest.raises(ValueError, match="teacher_logits has shape"):
        tx = selection.keep_by_power(0.5, 1.0, 0)
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), teacher_logits=jnp.ones(3))
