import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection

B, D, Q, NOISE = 15, 4, 2, 0.05


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def problem(seed):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(B, D))), unit(rng.normal(size=(Q, D)))


def posterior_variance(x, q, chosen, noise=NOISE):
    """Closed form, summed over the queries."""
    a = x[chosen]
    gain = q @ a.T @ np.linalg.solve(a @ a.T + noise * np.eye(len(chosen)), a @ q.T)
    return np.trace(q @ q.T - gain)


def greedy(x, q, k, allowed=None):
    chosen = []
    for _ in range(k):
        allowed_ = range(len(x)) if allowed is None else np.flatnonzero(allowed)
        chosen.append(min(allowed_, key=lambda j: posterior_variance(x, q, [*chosen, j])))
    return chosen


def sift(x, q, k, **options):
    return selection.sift_indices(jnp.asarray(x, jnp.float32), jnp.asarray(q, jnp.float32), k, **options)


def test_chooses_the_best_single_steps_and_reports_the_closed_form():
    for seed in range(3):
        x, q = problem(seed)
        result = sift(3 * x, 0.5 * q, 8, noise=NOISE)
        assert result.indices.tolist() == greedy(x, q, 8)
        expected = [posterior_variance(x, q, result.indices[: n + 1].tolist()) for n in range(8)]
        np.testing.assert_allclose(result.variances, expected, rtol=1e-4, atol=1e-5)
        assert bool(result.kept.all())


def test_variance_is_that_of_gaussian_process_regression():
    gaussian_process = pytest.importorskip("sklearn.gaussian_process")
    x, q = problem(3)
    result = sift(x, q, 6, noise=NOISE)
    kernel = gaussian_process.kernels.DotProduct(sigma_0=0, sigma_0_bounds="fixed")
    regression = gaussian_process.GaussianProcessRegressor(kernel, alpha=NOISE, optimizer=None)
    regression.fit(x[result.indices], np.zeros(6))
    _, deviations = regression.predict(q, return_std=True)
    np.testing.assert_allclose(result.variances[-1], np.sum(deviations**2), rtol=1e-4)


def test_much_noise_repeats_the_nearest_and_little_noise_avoids_repeats():
    x, q = problem(4)
    nearest = int(np.argmax((x @ q[0]) ** 2))
    assert sift(x, q[:1], 4, noise=1e5).indices.tolist() == [nearest] * 4
    assert len(set(sift(x, q, 4, noise=1e-4).indices.tolist())) == 4


def test_duplicates_cost_nearest_neighbors_but_not_sift():
    """A pool of 60 around the query and 20 copies of the nearest one; 10 chosen."""
    rng = np.random.default_rng(0)
    q = unit(rng.normal(size=(1, 16)))
    pool = unit(q + 0.3 * rng.normal(size=(60, 16)))
    closest = pool[np.argmax(pool @ q[0])]
    pool = np.concatenate([pool, np.repeat(closest[None], 20, 0)])
    result = sift(pool, q, 10)
    nearest = np.argsort(-(pool @ q[0]))[:10]
    distinct = np.argsort(-(pool[:60] @ q[0]))[:10]
    left = [posterior_variance(pool, q, list(c), 0.01) for c in (result.indices, distinct, nearest)]
    np.testing.assert_allclose(result.variances[-1], left[0], rtol=1e-2)
    assert left[0] < 0.6 * left[1] < left[2] * 0.4


def test_stop_follows_the_rule():
    x, q = problem(5)
    result = sift(x, q, 8, noise=NOISE, stop=1.0)
    pays = np.sqrt(result.variances) <= 1 / np.arange(1, 9)
    expected = [bool(pays[: n + 1].all()) for n in range(8)]
    assert result.kept.tolist() == expected


def test_bad_and_absent_examples_are_never_chosen():
    x, q = problem(6)
    allowed = np.arange(B) % 3 != 0
    expected = greedy(x, q, 5, allowed)
    spoilt = np.where(allowed[:, None], x, np.nan)
    assert sift(spoilt, q, 5, noise=NOISE).indices.tolist() == expected
    assert sift(x, q, 5, noise=NOISE, where=jnp.asarray(allowed)).indices.tolist() == expected
    poisoned = np.concatenate([q, np.full((1, D), np.nan)])
    assert sift(spoilt, poisoned, 5, noise=NOISE).indices.tolist() == expected
    nothing = sift(x, q, 2, where=jnp.zeros(B, bool))
    assert nothing.indices.tolist() == [B, B]
    np.testing.assert_allclose(nothing.variances, Q, rtol=1e-5)


def test_bad_input_is_named():
    ones = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="queries has shape"):
        selection.sift_indices(ones, jnp.ones((1, 3)), 1)
    with pytest.raises(ValueError, match="noise is 0"):
        selection.sift_indices(ones, ones, 1, noise=0)
    with pytest.raises(ValueError, match="stop is -1"):
        selection.sift_indices(ones, ones, 1, stop=-1)
    with pytest.raises(TypeError, match="features has dtype int32"):
        selection.sift_indices(jnp.ones((3, 2), int), ones, 1)
    with pytest.raises(ValueError, match="where has shape"):
        jax.jit(selection.sift_indices, static_argnums=2)(ones, ones, 1, where=jnp.ones(2, bool))
