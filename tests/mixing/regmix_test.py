"""RegMix: draws within their bounds and distribution, regressions of scikit-learn, a known best mixture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.linear_model
import sklearn.preprocessing

from minibatch_jax.mixing import average_of_top, fit_regression, predict_regression, sample_mixtures

PRIOR = jnp.array([0.5, 0.3, 0.15, 0.05])
draw = functools.partial(jax.jit, static_argnames=("n", "oversampling"))(sample_mixtures)


def test_draws_are_new_multiples_within_the_bounds_of_the_prior_itself():
    found = draw(0, PRIOR, n=200, max_ratio=3.0, smallest=0.01)
    mixtures = np.asarray(found.mixtures)
    assert found.valid.all() and (mixtures <= 3 * np.asarray(PRIOR) + 0.01).all()
    np.testing.assert_allclose(mixtures.sum(axis=1), 1, atol=1e-6)
    assert len(np.unique(mixtures.round(5), axis=0)) == 200
    least = np.where(mixtures > 0, mixtures, 1).min(axis=1)
    assert (least > 0.0095).all() and (mixtures == 0).any() and (mixtures[:, 3] > 0.12).any()


def test_draws_follow_the_flattened_prior_and_vary_with_the_strengths():
    """Without bounds the mean is the flattened prior; a Dirichlet of strength s has variance m (1 - m) / (s + 1)."""
    flat = np.sqrt(PRIOR) / np.sqrt(PRIOR).sum()
    for strength in (0.5, 20.0):
        options = {"strengths": (strength, strength), "max_ratio": 1e9, "smallest": 1e-5}
        mixtures = np.concatenate([draw(seed, PRIOR, n=200, **options).mixtures for seed in range(16)])
        np.testing.assert_allclose(mixtures.mean(axis=0), flat, atol=0.025)
        np.testing.assert_allclose(mixtures.var(axis=0), flat * (1 - flat) / (strength + 1), rtol=0.15)


def test_rows_are_flagged_where_too_few_draws_fit_and_a_domain_without_prior_is_not_drawn():
    found = draw(0, PRIOR, n=200, max_ratio=1.15, smallest=0.01)
    count = int(found.valid.sum())
    assert 0 < count < 200 and found.valid[:count].all()
    assert (found.mixtures[count:] == 0).all() and (found.mixtures[:count].sum(axis=1) > 0.99).all()
    odd = draw(0, PRIOR.at[1].set(jnp.nan).at[2].set(-1), n=200, smallest=0.01)
    assert (odd.mixtures[:, 1:3] == 0).all() and odd.valid.any()


@pytest.mark.parametrize("features", ["linear", "quadratic"])
def test_regressions_are_ridge_of_scikit_learn(features):
    rng = np.random.default_rng(0)
    mixtures, losses = rng.dirichlet(np.ones(4), 30), rng.normal(size=(30, 2))
    inputs = mixtures
    if features == "quadratic":
        inputs = sklearn.preprocessing.PolynomialFeatures(2, include_bias=False).fit_transform(mixtures)
    want = sklearn.linear_model.Ridge(alpha=0.05).fit(inputs, losses).predict(inputs)
    given = jnp.asarray(mixtures, jnp.float32), jnp.asarray(losses, jnp.float32)
    fitted = fit_regression(*given, features=features, ridge=0.05)
    np.testing.assert_allclose(predict_regression(fitted, given[0]), want, atol=1e-4)
    single = fit_regression(given[0], given[1][:, 1], features=features, ridge=0.05)
    np.testing.assert_allclose(predict_regression(single, given[0]), want[:, 1], atol=1e-4)
    np.testing.assert_allclose(predict_regression(single, given[0][3]), want[3, 1], atol=1e-4)


def test_without_ridge_the_fit_is_least_squares_and_rows_that_are_no_runs_have_no_weight():
    rng = np.random.default_rng(1)
    mixtures, losses = rng.dirichlet(np.ones(4), 30), rng.normal(size=30)
    want = mixtures @ np.linalg.lstsq(mixtures[3:], losses[3:])[0]
    odd, values = mixtures.copy(), losses.copy()
    odd[0], odd[1, 0], values[2] = 0.5, np.nan, np.inf
    fitted = fit_regression(jnp.asarray(odd, jnp.float32), jnp.asarray(values, jnp.float32), ridge=0.0)
    np.testing.assert_allclose(predict_regression(fitted, jnp.asarray(mixtures, jnp.float32)), want, atol=1e-4)
    assert fitted.num_runs == 27


def test_the_average_of_the_best_predictions_finds_a_known_minimum():
    best = np.array([0.4, 0.3, 0.2, 0.1])

    def predict(mixtures):
        return jnp.sum((mixtures - jnp.asarray(best, mixtures.dtype)[None]) ** 2, axis=1)

    found = average_of_top(predict, 0, jnp.full(4, 0.25), num_draws=20_000, num_averaged=8)
    np.testing.assert_allclose(found, best, atol=0.03)
    drawn = average_of_top(
        lambda m: jnp.where(m[:, 0] > 0.5, jnp.nan, -m[:, 0]), 0, PRIOR, num_draws=20_000, num_averaged=1
    )
    assert 0.4 < drawn[0] <= 0.5
    everything = average_of_top(lambda m: m[:, 0], 0, PRIOR, num_draws=20_000, num_averaged=20_000)
    np.testing.assert_allclose(everything, PRIOR, atol=0.02)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="features is 'cubic', wanted one of 'linear', 'quadratic'"):
        fit_regression(jnp.full((3, 2), 0.5), jnp.ones(3), features="cubic")
    with pytest.raises(ValueError, match="mixtures has rows that sum to 2, wanted proportions that sum to 1"):
        fit_regression(jnp.ones((3, 2)), jnp.ones(3))
    with pytest.raises(ValueError, match="mixtures has 3 domains, wanted those of the regression, which has 2 coeff"):
        predict_regression(fit_regression(jnp.full((3, 2), 0.5), jnp.ones(3)), jnp.ones(3))
    with pytest.raises(ValueError, match=r"num_averaged is 9, wanted at most 8 \(the number of draws\)"):
        average_of_top(jnp.sum, 0, PRIOR, num_draws=8, num_averaged=9)
    with pytest.raises(ValueError, match="n is 0, wanted at least 1"):
        sample_mixtures(0, PRIOR, 0)
    with pytest.raises(TypeError, match="prior has dtype int32"):
        sample_mixtures(0, jnp.arange(3), 2)


def test_draws_without_a_prediction_are_not_averaged_and_a_prior_of_zeros_gives_none():
    """Only the draws with more than 0.9 of the first domain have a prediction, and they are fewer than are averaged."""

    def predict(mixtures, largest=1.0):
        share = mixtures[:, 0]
        return jnp.where((share > 0.9) & (share <= largest), share, jnp.nan)

    top = jax.jit(functools.partial(average_of_top, num_draws=256, num_averaged=128), static_argnums=0)
    assert 0.9 < top(predict, 0, jnp.ones(2) / 2)[0] < 1
    assert top(functools.partial(predict, largest=0.0), 0, jnp.ones(2) / 2).tolist() == [0, 0]
    assert top(lambda mixtures: mixtures[:, 0], 0, jnp.zeros(2)).tolist() == [0, 0]
    for draw_from in (functools.partial(sample_mixtures, n=4), functools.partial(average_of_top, predict)):
        with pytest.raises(ValueError, match=r"prior is \[0.0, nan\], wanted a number above 0"):
            draw_from(key=0, prior=jnp.array([0.0, jnp.nan]))
