import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import scores
from minibatch_jax.scores import Datamodels

M, N, T = 60, 8, 3
TRUE = np.zeros((N, T))
TRUE[[0, 3], 0] = 2, -1
TRUE[[2, 3, 7], 1] = 1, 0.5, -0.5
fit = jax.jit(functools.partial(scores.fit_datamodels, smallest=1e-3, tolerance=1e-8, max_iterations=500))


def planted(noise=0.0, fraction=0.5):
    masks = np.asarray(scores.subset_masks(0, M, N, fraction, exact=False), np.float64)
    rng = np.random.default_rng(1)
    return masks, masks @ TRUE + [3, -1, 0.5] + noise * rng.normal(size=(M, T))


def fit_wide(masks, outcomes):
    with jax.enable_x64(True):
        return jax.device_get(fit(jnp.asarray(masks, jnp.float64), jnp.asarray(outcomes, jnp.float64)))


def test_the_fit_is_that_of_scikit_learn_and_meets_the_conditions_of_a_minimum():
    from sklearn.linear_model import Lasso

    masks, outcomes = planted(noise=0.3)
    fitted = fit_wide(masks, outcomes)
    assert fitted.converged.all() and fitted.num_dropped == 0
    deviation = masks.std(0)
    inputs = (masks - masks.mean(0)) / deviation
    for t in range(T):
        model = Lasso(alpha=fitted.penalty[t], tol=1e-12, max_iter=100_000).fit(inputs, outcomes[:, t])
        np.testing.assert_allclose(fitted.influence[:, t] * deviation, model.coef_, atol=1e-6)
        predicted = masks @ fitted.influence[:, t] + fitted.intercept[t]
        np.testing.assert_allclose(predicted, model.predict(inputs), atol=1e-6)
        slope = inputs.T @ (outcomes[:, t] - predicted) / M
        used = fitted.influence[:, t] != 0
        np.testing.assert_allclose(slope[used], fitted.penalty[t] * np.sign(fitted.influence[used, t]), atol=1e-6)
        assert np.all(np.abs(slope[~used]) <= fitted.penalty[t] + 1e-6)


def test_the_penalty_is_the_one_of_the_path_with_the_least_error_on_the_last_subsets():
    from sklearn.linear_model import Lasso

    masks, outcomes = planted(noise=0.3)
    fitted = fit_wide(masks, outcomes)
    inputs, held_out = masks[:-6], masks[-6:]
    center, deviation = inputs.mean(0), inputs.std(0)
    for t in range(T):
        y = outcomes[:-6, t]
        largest = np.abs(((inputs - center) / deviation).T @ (y - y.mean())).max() / (M - 6)
        path = np.geomspace(largest, 1e-3 * largest, 15)
        models = [Lasso(alpha=a, tol=1e-12, max_iter=100_000).fit((inputs - center) / deviation, y) for a in path]
        errors = [np.mean((m.predict((held_out - center) / deviation) - outcomes[-6:, t]) ** 2) for m in models]
        np.testing.assert_allclose(fitted.errors[:, t], errors, atol=1e-5)
        assert fitted.penalty[t] == pytest.approx(path[np.argmin(errors)], rel=1e-6)
        assert fitted.errors[0, t] == pytest.approx(np.mean((y.mean() - outcomes[-6:, t]) ** 2), rel=1e-6)


def test_planted_influences_are_found_and_a_constant_outcome_has_none():
    masks, outcomes = planted()
    fitted = fit_wide(masks, outcomes)
    np.testing.assert_allclose(fitted.influence, TRUE, atol=0.01)
    assert np.all(fitted.influence[:, 2] == 0) and fitted.intercept[2] == pytest.approx(0.5)
    new = np.asarray(scores.subset_masks(7, 20, N, 0.25), np.float32)
    predicted = scores.predict_outcomes(jax.tree.map(jnp.float32, fitted), jnp.asarray(new))
    np.testing.assert_allclose(predicted, new @ TRUE + [3, -1, 0.5], atol=0.02)


def test_rows_and_outcomes_that_say_nothing_change_nothing_else():
    masks, outcomes = planted(noise=0.3)
    expected = fit_wide(masks, outcomes)
    bad = outcomes.copy()
    bad[::2, 2] = np.nan  # half of them: a third more and the outcome is not fitted
    bad[:, 2][1:9:2] = np.inf
    same = fit_wide(masks, bad)
    np.testing.assert_allclose(same.influence[:, :2], expected.influence[:, :2], atol=1e-6)
    assert same.num_dropped == 0 and np.isnan(same.intercept[2]) and not same.influence[:, 2].any()
    assert same.converged.tolist() == [True, True, False]

    few, fewer = outcomes.copy(), np.r_[0:4, 5:50, 51:60]
    few[4, 0], few[50, 2] = np.nan, -np.inf
    dropped = fit_wide(masks, few)
    assert dropped.num_dropped == 2
    with jax.enable_x64(True):
        inputs = jnp.asarray(masks[fewer]), jnp.asarray(outcomes[fewer])
        left = scores.fit_datamodels(*inputs, num_validation=6, smallest=1e-3, tolerance=1e-8, max_iterations=500)
    np.testing.assert_allclose(dropped.influence, left.influence, atol=1e-6)

    constant = masks.copy()
    constant[:, 1], constant[:, 4] = 1, 0
    fixed = fit_wide(constant, outcomes)
    assert not fit_wide(np.ones_like(masks), outcomes).converged.any()
    assert not fixed.influence[[1, 4]].any() and np.isfinite(fixed.influence).all() and fixed.converged.all()


@pytest.mark.parametrize("exact", [True, False])
def test_subsets_have_the_fraction_and_rows_are_equally_likely(exact):
    masks = np.asarray(scores.subset_masks(3, 4000, 10, 0.3, exact=exact))
    assert set(np.unique(masks)) == {0, 1}
    np.testing.assert_allclose(masks.mean(0), 0.3, atol=4 * (0.21 / 4000) ** 0.5)
    spread = masks.sum(1).var()
    assert spread == 0 if exact else abs(spread - 2.1) < 0.2
    # two rows are in together as often as in draws without, or with, replacement of their places
    both = (masks.T @ masks / 4000)[np.triu_indices(10, 1)].mean()
    assert both == pytest.approx(0.3 * 2 / 9 if exact else 0.09, abs=0.003)


def ridge(weights, x, y, new):
    slopes = jnp.linalg.solve((x * weights[:, None]).T @ x + 0.1 * jnp.eye(2), x.T @ (weights * y))
    return new @ slopes


@pytest.mark.parametrize("block_size", [None, 3])
def test_outcomes_are_those_of_training_on_the_rows_of_each_subset(block_size):
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(9, 2)), rng.normal(size=9), rng.normal(size=(4, 2))
    masks = scores.subset_masks(0, 7, 9, 0.5)
    given = functools.partial(ridge, x=jnp.float32(x), y=jnp.float32(y), new=jnp.float32(new))
    found = scores.subset_outcomes(given, masks, block_size=block_size)
    for mask, outcomes in zip(np.asarray(masks) > 0, found, strict=True):
        cut, target = x[mask], y[mask]
        slopes = np.linalg.solve(cut.T @ cut / len(cut) + 0.1 * np.eye(2), cut.T @ target / len(cut))
        np.testing.assert_allclose(outcomes, new @ slopes, rtol=1e-4, atol=1e-5)


def test_each_subset_has_a_key_of_its_own():
    found = scores.subset_outcomes(lambda w, key: jax.random.normal(key, (1,)), jnp.ones((50, 2)), key=0)
    assert len(np.unique(found)) == 50 and abs(found.mean()) < 0.5


def test_margins_of_labels():
    logits = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    labels = np.array([0, 3, 1, 4, -1])
    found = np.asarray(scores.label_margins(jnp.asarray(logits), jnp.asarray(labels)))
    for i, label in enumerate(labels[:3]):
        expected = logits[:, i, label] - np.delete(logits[:, i], label, axis=1).max(1)
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-6)
    assert np.isnan(found[:, 3:]).all()


def test_removals_flips_and_top_rows_equal_enumeration():
    rng = np.random.default_rng(2)
    influence = rng.normal(size=(6, 40)).astype(np.float32)
    models = Datamodels(jnp.zeros(40), jnp.asarray(influence), *[jnp.zeros(40)] * 4)
    margins = rng.uniform(-0.5, 4, 40).astype(np.float32)
    margins[-1] = np.nan
    subsets = np.array([[b >> i & 1 for i in range(6)] for b in range(64)], bool)
    effects = np.asarray(scores.removal_effects(models, jnp.asarray(subsets)))
    np.testing.assert_allclose(effects, [-influence[s].sum(0) for s in subsets], atol=1e-5)
    flips = np.asarray(scores.smallest_flips(models, jnp.asarray(margins)))
    for t in range(40):
        enough = subsets.sum(1)[margins[t] + effects[:, t] < 0]
        assert flips[t] == (enough.min() if len(enough) else 7)
    top = np.asarray(scores.top_influences(models, 4))
    for t in range(40):
        order = [i for i in np.argsort(-influence[:, t]) if influence[i, t] > 0][:4]
        assert top[t].tolist() == order + [6] * (4 - len(order))


def test_masks_and_numbers_may_be_constants_or_traced():
    masks, outcomes = map(jnp.float32, planted(noise=0.3))
    found = jax.jit(lambda y, t: scores.fit_datamodels(masks, y, smallest=1e-3, tolerance=t, max_iterations=500))
    np.testing.assert_allclose(found(outcomes, 1e-8).influence, fit(masks, outcomes).influence, atol=1e-5)


@pytest.mark.parametrize("mask_scale, scale", [(1e20, 1e18), (1e-22, 1e-15), (1e5, 1e-22)])
def test_units_of_masks_and_outcomes_do_not_matter(mask_scale, scale):
    masks, outcomes = planted(noise=0.3)
    expected = fit(jnp.float32(masks), jnp.float32(outcomes))
    found = fit(jnp.float32(masks * mask_scale), jnp.float32(outcomes * scale))
    influence, wanted = np.float64(found.influence) * mask_scale / scale, np.float64(expected.influence)
    np.testing.assert_allclose(influence, wanted, atol=1e-4)
    np.testing.assert_allclose(np.float64(found.intercept) / scale, expected.intercept, rtol=1e-4)
    np.testing.assert_allclose(np.float64(found.penalty) / scale, expected.penalty, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_computes_in_float32(dtype):
    masks, outcomes = planted(noise=0.3)
    half = jnp.asarray(masks, dtype), jnp.asarray(outcomes, dtype)
    found, expected = fit(*half), fit(*(x.astype(jnp.float32) for x in half))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert found.influence.dtype == jnp.float32


def test_bad_input_is_named():
    masks, outcomes = jnp.ones((4, 3)), jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"fraction is 1.0, wanted a number in \(0, 1\)"):
        scores.subset_masks(0, 3, 4, 1.0)
    with pytest.raises(ValueError, match="fraction is 0.05, wanted one that leaves a row in and a row out of 4"):
        scores.subset_masks(0, 3, 4, 0.05)
    with pytest.raises(ValueError, match="masks has 4 subsets, wanted at least 2 beside the 3 of num_validation"):
        scores.fit_datamodels(masks, outcomes, num_validation=3)
    with pytest.raises(ValueError, match="masks has the same rows in every subset"):
        scores.fit_datamodels(masks, outcomes)
    with pytest.raises(ValueError, match=r"outcomes has shape \[5, 2\], wanted \[4, any size > 0\]"):
        scores.fit_datamodels(masks, jnp.ones((5, 2)))
    with pytest.raises(TypeError, match="masks has dtype bool"):
        scores.fit_datamodels(masks > 0, outcomes)
    with pytest.raises(ValueError, match=r"outcomes_fn\(weights\) has shape \[\]"):
        scores.subset_outcomes(jnp.sum, masks)
    with pytest.raises(ValueError, match=r"wanted \[..., T, C\] with C > 1"):
        scores.label_margins(jnp.ones((3, 1)), jnp.zeros(3, jnp.int32))
    fitted = Datamodels(jnp.zeros(2), jnp.ones((3, 2)), *[jnp.zeros(2)] * 4)
    with pytest.raises(ValueError, match=r"masks has shape \[2\], wanted \[..., 3\]"):
        scores.predict_outcomes(fitted, jnp.ones(2))
    with pytest.raises(ValueError, match=r"removed has shape \[2\], wanted \[..., 3\]"):
        scores.removal_effects(fitted, jnp.ones(2, bool))
    with pytest.raises(TypeError, match="removed has dtype int32, wanted bool"):
        scores.removal_effects(fitted, jnp.arange(3))
    with pytest.raises(ValueError, match="num_rows is 1, wanted at least 2"):
        scores.subset_masks(0, 3, 1, 0.5, exact=False)
    with pytest.raises(ValueError, match="k is 4, wanted at most 3"):
        scores.top_influences(fitted, 4)
