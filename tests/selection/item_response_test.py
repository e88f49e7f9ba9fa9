import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import minimize

from minibatch_jax.selection import ItemResponse, fit_ability, fit_item_response, response_mean, solve_probabilities

RNG = np.random.default_rng(0)
SLOPES, HARD = RNG.normal(size=(40, 2)) * [1.5, 0.7] + [1, 0], RNG.normal(size=40)
ABILITY = RNG.normal(size=(60, 2))
CHANCE = 1 / (1 + np.exp(HARD - ABILITY @ SLOPES.T))
RECORDS = (RNG.random(CHANCE.shape) < CHANCE).astype(np.float64)
ITEMS = ItemResponse(jnp.float32(SLOPES), jnp.float32(HARD), jnp.float32(ABILITY))
fit = jax.jit(functools.partial(fit_item_response, 0, num_dimensions=2, num_rounds=200))


def posterior(slopes, hard, ability, records, prior):
    logits = ability @ slopes.T - hard
    each = np.logaddexp(0, logits) - np.where(np.isnan(records), 0, records) * logits
    penalty = np.sum(ability**2) + np.sum(slopes**2) + np.sum(hard**2) / 10
    return np.sum(np.where(np.isnan(records), 0, each)) + penalty / (2 * prior)


def test_the_fit_is_at_a_minimum_by_finite_differences_and_left_out_scores_do_not_count():
    records = np.where(RNG.random(RECORDS.shape) < 0.1, np.nan, RECORDS)
    with jax.enable_x64(True):
        found = jax.device_get(fit(jnp.asarray(records)))
    second = found.ability.T @ found.ability / len(records)
    np.testing.assert_allclose(second, np.eye(2), atol=1e-6)
    slopes = found.discrimination
    # the priors are equal, so at the maximum both second moments are
    back = sqrtm(sqrtm(slopes.T @ slopes / len(records)))
    found = ItemResponse(slopes @ np.linalg.inv(back).T, found.difficulty, found.ability @ back)
    sizes = [part.size for part in found]
    flat = np.concatenate([part.ravel() for part in found])

    def value(x):
        parts = np.split(x, np.cumsum(sizes)[:-1])
        return posterior(*(p.reshape(q.shape) for p, q in zip(parts, found, strict=True)), records, 1.0)

    start = value(flat)
    for at in RNG.choice(len(flat), 30, replace=False):
        move = np.where(np.arange(len(flat)) == at, 1e-4, 0)
        assert abs(value(flat + move) - value(flat - move)) / 2e-4 < 0.01
    assert start < posterior(SLOPES, HARD, ABILITY, records, 1.0)
    assert np.isnan(records).any()
    assert np.corrcoef(found.difficulty, HARD)[0, 1] > 0.85
    predicted = solve_probabilities(ItemResponse(*map(jnp.float32, found)), jnp.float32(found.ability))
    assert np.abs(predicted - CHANCE)[np.isnan(records)].mean() < 0.15 < np.abs(0.5 - CHANCE).mean()


def test_an_ability_is_the_one_that_scipy_finds():
    scores = np.where(np.arange(40) < 25, RECORDS[3], np.nan)
    scores[7] = 0.4

    def loss(ability):
        logits = SLOPES @ ability - HARD
        return np.nansum(np.logaddexp(0, logits) - scores * logits) + ability @ ability / 4

    expected = minimize(loss, np.zeros(2), tol=1e-10).x
    np.testing.assert_allclose(fit_ability(ITEMS, jnp.float32(scores), prior=2.0), expected, atol=1e-4)
    assert not fit_ability(ITEMS, jnp.full(40, jnp.nan)).any()


def test_steps_end_at_the_minimum_where_plain_newton_steps_diverge():
    steep = ItemResponse(jnp.full((6, 1), 6.0), jnp.array([-18.0, -18, -18, 18, 18, 18]), jnp.zeros((0, 1)))
    scores = jnp.array([1.0, 1, 1, 0, 0, 1])
    found = float(fit_ability(steep, scores, prior=100.0, num_steps=40)[0])

    def loss(x):
        logits = 6.0 * x + np.repeat([18.0, -18.0], 3)
        return np.sum(np.logaddexp(0, logits) - np.asarray(scores) * logits) + x * x / 200

    grid = np.linspace(-10, 10, 20_001)
    assert loss(found) <= min(map(loss, grid)) + 1e-3


def test_the_mean_has_known_scores_and_predicts_the_others():
    indices, weights = np.array([5, 40, 9, 2, -1]), np.arange(1.0, 41)
    scores = np.array([1, 1, 0, np.nan, 0], np.float32)
    full = np.full(40, np.nan)
    full[5], full[9] = 1, 0
    ability = np.asarray(fit_ability(ITEMS, jnp.float32(full)))
    predicted = 1 / (1 + np.exp(HARD - SLOPES @ ability))
    expected = np.where(np.isnan(full), predicted, full) @ weights / weights.sum()
    found = response_mean(ITEMS, jnp.asarray(indices), jnp.asarray(scores), item_weights=jnp.float32(weights))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    spoiled, left = weights.copy(), np.r_[0, 4:40]
    spoiled[1:4], full = [np.nan, -30, np.inf], np.where(np.isnan(full), predicted, full)
    found = response_mean(ITEMS, jnp.int8(indices), jnp.asarray(scores), item_weights=jnp.float32(spoiled))
    assert float(found) == pytest.approx(full[left] @ weights[left] / weights[left].sum(), rel=1e-5)
    assert np.isnan(response_mean(ITEMS, jnp.int8(indices), jnp.asarray(scores), item_weights=jnp.zeros(40)))
    every = response_mean(ITEMS, jnp.arange(40), jnp.float32(RECORDS[0]))
    assert float(every) == pytest.approx(RECORDS[0].mean(), rel=1e-6)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"prior is 0, wanted a number in \(0, inf\)"):
        fit_item_response(0, jnp.ones((2, 3)), prior=0)
    with pytest.raises(ValueError, match=r"ability has shape \[3\], wanted \[..., 2\]"):
        solve_probabilities(ITEMS, jnp.ones(3))
    with pytest.raises(ValueError, match=r"scores has shape \[39\], wanted \[40\]"):
        fit_ability(ITEMS, jnp.ones(39))
    with pytest.raises(TypeError, match="records has dtype int32"):
        fit_item_response(0, jnp.ones((2, 3), jnp.int32))
