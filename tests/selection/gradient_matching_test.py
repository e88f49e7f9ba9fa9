"""GradMatch against orthogonal matching pursuit in numpy with scipy's non-negative least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from minibatch_jax.selection import gradient_match, keep_by_gradient_match
from tests.case import ROWS, Case

CASES = {
    "keep_by_gradient_match": Case(
        lambda: keep_by_gradient_match(5, regularization=0.1),
        lambda rng: {"features": rng.normal(size=(ROWS, 4)).astype(np.float32)},
        lowers_mass=None,
        tolerance=1e-3,
    )
}
match = jax.jit(gradient_match, static_argnums=1)


def pursuit(x, k, target, regularization=0.0, free=None):
    """Indices and weights of the pursuit, until nothing helps; ridge terms are rows of their own."""
    chosen, weights = [], np.zeros(0)
    free = np.ones(len(x), bool) if free is None else free.copy()
    for _ in range(k):
        along = x @ (target - weights @ x[chosen])
        along[~free] = -np.inf
        j = int(np.argmax(along))
        if along[j] <= 1e-5 * np.linalg.norm(target) * np.linalg.norm(x[j]):
            break
        chosen.append(j)
        free[j] = False
        ridge = np.sqrt(regularization) * np.eye(len(chosen))
        weights = nnls(np.vstack([x[chosen].T, ridge]), np.append(target, np.zeros(len(chosen))))[0]
    return chosen, weights


@pytest.mark.parametrize("regularization", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("width", [6, 40])
def test_is_the_pursuit_with_non_negative_least_squares(regularization, width):
    for seed in range(6):
        x = np.random.default_rng(seed).normal(size=(40, width)).astype(np.float32)
        indices, weights = pursuit(x.astype(np.float64), 12, x.sum(0, dtype=np.float64), regularization)
        found = match(jnp.asarray(x), 12, regularization=regularization)
        count = len(indices)
        assert found.indices.tolist() == indices + [40] * (12 - count)
        np.testing.assert_allclose(found.weights[:count], weights, rtol=2e-3, atol=2e-3)
        missing = np.linalg.norm(x.sum(0) - weights @ x[indices]) / np.linalg.norm(x.sum(0))
        np.testing.assert_allclose(found.residual, missing, rtol=2e-3, atol=1e-5)


def test_a_weight_that_others_make_superfluous_is_zero_as_in_the_reference():
    zeros = 0
    for seed in range(20):
        x = np.abs(np.random.default_rng(seed).normal(size=(12, 5))).astype(np.float32)
        target = x[3] + 2 * x[7] + 0.1
        indices, weights = pursuit(x.astype(np.float64), 8, target.astype(np.float64))
        found = match(jnp.asarray(x), 8, target=jnp.asarray(target))
        assert found.indices.tolist()[: len(indices)] == indices
        np.testing.assert_allclose(found.weights[: len(indices)], weights, rtol=5e-3, atol=5e-3)
        zeros += np.count_nonzero(weights == 0)
    assert zeros > 5


def test_a_rank_below_k_ends_early_with_the_target_met():
    x = np.random.default_rng(0).normal(size=(30, 3)) @ np.random.default_rng(1).normal(size=(3, 20))
    found = match(jnp.asarray(x, jnp.float32), 10)
    taken = np.asarray(found.indices) < 30
    assert taken.sum() <= 6 and found.residual < 1e-3
    assert not np.any(np.asarray(found.weights)[~taken])
    np.testing.assert_allclose(found.weights[taken] @ x[found.indices[taken]], x.sum(0), rtol=1e-2, atol=1e-2)


def test_no_sign_or_scale_of_the_gradients_matters_to_the_choice():
    x = np.random.default_rng(2).normal(size=(40, 8)).astype(np.float32)
    expected = match(jnp.asarray(x), 6, regularization=0.5)
    for scale in (-1.0, 1e-12, 1e12):
        found = match(jnp.asarray(x * np.float32(scale)), 6, regularization=0.5 * scale**2)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-3)


def test_it_approximates_the_gradient_better_than_the_same_examples_with_equal_weights_and_than_random_ones():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 10)).astype(np.float32) + rng.normal(size=(4, 10))[rng.integers(0, 4, 200)]
    found = match(jnp.asarray(x, jnp.float32), 8)
    total = x.sum(0)
    equal = np.linalg.norm(total - 25 * x[found.indices].sum(0)) / np.linalg.norm(total)
    draws = [rng.choice(200, 8, replace=False) for _ in range(50)]
    random = np.mean([np.linalg.norm(total - 25 * x[rows].sum(0)) for rows in draws]) / np.linalg.norm(total)
    assert found.residual < 0.05 < min(equal, random)


def test_rows_that_do_not_exist_count_for_nothing():
    x, exists = np.random.default_rng(4).normal(size=(20, 12)).astype(np.float32), np.arange(20) % 3 != 1
    alone = match(jnp.asarray(x[exists]), 5)
    for fill in (7.0, np.nan, np.inf, 1e30):
        spoilt = jnp.asarray(np.where(exists[:, None], x, fill))
        found = match(spoilt, 5, where=jnp.asarray(exists))
        np.testing.assert_array_equal(found.indices, np.flatnonzero(exists)[np.asarray(alone.indices)])
        np.testing.assert_allclose(found.weights, alone.weights, rtol=1e-4, atol=1e-5)


def test_the_transformation_keeps_the_gradient_of_the_weighted_batch():
    rng = np.random.default_rng(5)
    x, w = rng.normal(size=(24, 5)).astype(np.float32), rng.uniform(size=24).astype(np.float32)
    tx = keep_by_gradient_match(12)
    kept, _ = jax.jit(tx.update)(jnp.asarray(w), tx.init(jnp.asarray(w)), features=jnp.asarray(x))
    assert 0 < np.count_nonzero(kept) <= 12
    np.testing.assert_allclose(kept @ x, w @ x, atol=1e-3)
    same, _ = jax.jit(tx.update)(jnp.asarray(w), tx.init(jnp.asarray(w)), features=jnp.zeros((24, 5)))
    np.testing.assert_array_equal(same, w)


def test_bad_input_is_named():
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"k is 5, wanted at most 4 \(the number of rows\)"):
        gradient_match(x, 5)
    with pytest.raises(ValueError, match=r"target has shape \[3\], wanted \[2\]"):
        gradient_match(x, 1, target=jnp.ones(3))
    with pytest.raises(ValueError, match="regularization is -1"):
        keep_by_gradient_match(2, regularization=-1.0)
    with pytest.raises(TypeError, match="features has dtype int32"):
        gradient_match(x.astype(int), 1)
