import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.spatial.distance

from minibatch_jax import selection

N, M, EPSILON = 12, 9, 0.1
scores = jax.jit(lambda c, a, b: selection.transport_scores(c, epsilon=EPSILON, weights=a, target_weights=b))


def problem(seed=0):
    rng = np.random.default_rng(seed)
    cost = scipy.spatial.distance.cdist(rng.normal(size=(N, 2)), rng.normal(1.0, 1.0, size=(M, 2)))
    return cost, rng.dirichlet(np.full(N, 5.0)), rng.dirichlet(np.full(M, 5.0))


def f32(x):
    return jnp.asarray(x, jnp.float32)


def entropic_value(cost, a, b, epsilon):
    plan = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=100_000)
    return np.sum(plan * cost) + epsilon * np.sum(plan * np.log(plan / np.outer(a, b)))


def test_calibration_is_minus_the_mean_of_the_others():
    f = np.random.default_rng(0).normal(size=N)
    expected = [f[i] - np.delete(f, i).mean() for i in range(N)]
    np.testing.assert_allclose(selection.calibrated_gradient(f32(f)), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(selection.calibrated_gradient(f32(f + 100)), expected, rtol=1e-3, atol=1e-4)
    exists = np.arange(N) % 4 != 1
    expected = selection.calibrated_gradient(f32(f[exists]))
    actual = selection.calibrated_gradient(f32(f), where=jnp.asarray(exists))
    np.testing.assert_allclose(actual[exists], expected, rtol=1e-5)


def test_scores_are_finite_differences_of_the_transport_cost():
    """Mass moves to item i from all others alike; value by POT."""
    cost, a, b = problem()
    epsilon = EPSILON * (a @ cost @ b)
    actual = np.asarray(scores(f32(cost), f32(a), f32(b)))
    for i in (0, 3, 7):
        direction = np.where(np.arange(N) == i, 1, -1 / (N - 1))
        up, down = (entropic_value(cost, a + h * direction, b, epsilon) for h in (1e-4, -1e-4))
        np.testing.assert_allclose(actual[i], (up - down) / 2e-4, rtol=2e-2, atol=2e-3)


def test_candidates_that_do_not_exist_do_not_count():
    cost, a, b = problem(1)
    exists = np.arange(N) % 4 != 1
    expected = scores(f32(cost[exists]), f32(a[exists]), f32(b))
    for spoilt, weights in ((cost, np.where(exists, a, 0)), (np.where(exists[:, None], cost, np.nan), a)):
        actual = scores(f32(spoilt), f32(weights), f32(b))
        np.testing.assert_allclose(actual[exists], expected, rtol=1e-2, atol=1e-3)
        assert np.all(np.isposinf(actual[~exists]))


def test_pulls_towards_what_the_pool_lacks_where_nearest_neighbors_do_not():
    """The published cats and dogs: 5 % dogs in the pool, half of the target."""
    rng = np.random.default_rng(0)
    dogs = np.arange(200) < 10
    pool = rng.normal(size=(200, 2)) + np.where(dogs, 6.0, 0.0)[:, None]
    target = rng.normal(size=(50, 2)) + np.where(np.arange(50) < 25, 6.0, 0.0)[:, None]
    cost = scipy.spatial.distance.cdist(pool, target, "sqeuclidean")
    chosen = np.argsort(jax.jit(selection.transport_scores)(f32(cost)))[:8]
    nearest = np.argsort(cost.min(1))[:8]
    assert dogs[chosen].all() and dogs[nearest].mean() < 0.5


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="cost has dtype int32"):
        selection.transport_scores(jnp.ones((3, 2), int))
    with pytest.raises(ValueError, match="target_weights has shape"):
        selection.transport_scores(jnp.ones((3, 2)), target_weights=jnp.ones(3))
    with pytest.raises(ValueError, match="epsilon is -0.1"):
        selection.transport_scores(jnp.ones((3, 2)), epsilon=-0.1)
    with pytest.raises(ValueError, match="where has shape"):
        selection.calibrated_gradient(jnp.ones(3), where=jnp.ones(2, bool))
