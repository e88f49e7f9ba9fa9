"""Entropies against scipy and identities, on counts of random chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from minibatch_jax.mixing import (
    conditional_entropy,
    entropy_mixture,
    joint_entropy,
    shannon_entropy,
    von_neumann_entropy,
)

RNG = np.random.default_rng(0)
PAIRS = RNG.poisson(RNG.gamma(0.3, 5, (3, 6, 6))).astype(np.float32)


def test_entropies_are_those_of_scipy_and_zero_counts_add_nothing():
    flat = PAIRS.reshape(3, -1)
    np.testing.assert_allclose(shannon_entropy(jnp.asarray(flat)), scipy.stats.entropy(flat, axis=1), rtol=1e-5)
    np.testing.assert_allclose(joint_entropy(jnp.asarray(PAIRS)), scipy.stats.entropy(flat, axis=1), rtol=1e-5)
    np.testing.assert_allclose(shannon_entropy(jnp.full((1, 7), 3)), np.log(7), rtol=1e-6)
    assert shannon_entropy(jnp.array([[0, 0], [4, 0]])).tolist() == [0, 0]
    assert shannon_entropy(jnp.array([[jnp.nan, 1, 1], [-5, 1, 1]])).tolist() == [pytest.approx(np.log(2))] * 2


def test_the_conditional_entropy_is_the_mean_over_first_tokens():
    shares = PAIRS / PAIRS.sum(axis=(1, 2), keepdims=True)
    of_rows = scipy.stats.entropy(np.where(PAIRS.sum(axis=2, keepdims=True) > 0, PAIRS, 1), axis=2)
    np.testing.assert_allclose(
        conditional_entropy(jnp.asarray(PAIRS)), (shares.sum(axis=2) * of_rows).sum(axis=1), rtol=1e-5
    )


def test_the_correction_is_that_of_miller_and_madow_and_removes_most_of_the_bias():
    corrected, plain = (shannon_entropy(jnp.asarray(PAIRS.reshape(3, -1)), corrected=c) for c in (True, False))
    support, total = (PAIRS > 0).sum(axis=(1, 2)), PAIRS.sum(axis=(1, 2))
    np.testing.assert_allclose(corrected - plain, (support - 1) / (2 * total), rtol=1e-3)
    shares = RNG.dirichlet(np.ones(20))
    counts = jnp.asarray(RNG.multinomial(60, shares, 200))
    bias = [float(shannon_entropy(counts, corrected=c).mean()) - scipy.stats.entropy(shares) for c in (False, True)]
    assert bias[0] < -0.08 and abs(bias[1]) < 0.5 * abs(bias[0])
    pairs, first = PAIRS.reshape(3, -1), PAIRS.sum(axis=2)
    want = shannon_entropy(jnp.asarray(pairs), corrected=True) - shannon_entropy(jnp.asarray(first), corrected=True)
    np.testing.assert_allclose(conditional_entropy(jnp.asarray(PAIRS), corrected=True), want, rtol=1e-5)


def test_the_von_neumann_entropy_is_that_of_the_eigenvalues_in_any_basis():
    values = RNG.gamma(1.0, size=(2, 5))
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    matrices = jnp.asarray(turn @ (values[..., None] * turn.T), jnp.float32)
    np.testing.assert_allclose(von_neumann_entropy(matrices), scipy.stats.entropy(values, axis=1), rtol=1e-4)


def test_mixtures_are_shares_of_the_entropies_or_of_their_exponentials():
    entropies = RNG.uniform(1, 3, 4)
    given = jnp.asarray(entropies, jnp.float32)
    np.testing.assert_allclose(entropy_mixture(given), np.exp(entropies) / np.exp(entropies).sum(), rtol=1e-5)
    np.testing.assert_allclose(entropy_mixture(given, "linear"), entropies / entropies.sum(), rtol=1e-5)
    for mode in ("softmax", "linear"):
        odd = jax.jit(entropy_mixture, static_argnums=1)(given.at[1].set(jnp.nan), mode)
        assert odd[1] == 0 and odd.sum() == pytest.approx(1, abs=1e-6)
        assert entropy_mixture(jnp.full(4, jnp.nan), mode).tolist() == [0.25] * 4
        assert entropy_mixture(jnp.ones(1), mode).tolist() == [1.0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="mode is 'cubic', wanted one of 'softmax', 'linear'"):
        entropy_mixture(jnp.ones(2), "cubic")
    with pytest.raises(ValueError, match=r"counts has shape \[3\], wanted"):
        shannon_entropy(jnp.ones(3))
    with pytest.raises(ValueError, match=r"matrices has shape \[1, 2, 3\], wanted \[any size > 0, 3, any size > 0\]"):
        von_neumann_entropy(jnp.ones((1, 2, 3)))
