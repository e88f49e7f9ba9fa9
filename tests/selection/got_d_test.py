import functools
from typing import Any

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


def samples(seed=0, size=100, targets=30):
    """Candidates mostly of one group, and targets half of another."""
    rng = np.random.default_rng(seed)
    pool = rng.normal(size=(size, 3)) + 3.0 * (np.arange(size) < size // 10)[:, None]
    target = rng.normal(size=(targets, 3)) + 3.0 * (np.arange(targets) < targets // 2)[:, None]
    return pool.astype(np.float32), target.astype(np.float32)


@functools.partial(jax.jit, static_argnames="block_size")
def in_blocks(pool, target, a, b, block_size=32):
    call = functools.partial(selection.transport_scores_in_blocks, epsilon=0.02, block_size=block_size, tolerance=1e-5)
    return call(pool, target, weights=a, target_weights=b)


def masses(seed=0, size=100, targets=30):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(size, 5.0)), rng.dirichlet(np.full(targets, 5.0))


@pytest.mark.parametrize("block_size", [32, 4096])
def test_scores_in_blocks_are_those_of_pot(block_size):
    pool, target = samples()
    a, b = masses()
    found = in_blocks(pool, target, f32(a), f32(b), block_size)
    cost = scipy.spatial.distance.cdist(pool.astype(np.float64), target.astype(np.float64), "sqeuclidean")
    epsilon = 0.02 * (a @ cost @ b)
    _, log = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-10, numItermax=100_000, log=True)
    own = epsilon * (log["log_u"] - np.log(a))
    expected = own - (own.sum() - own) / (len(own) - 1)
    assert found.converged and found.error <= 1e-5 and found.iterations < 40
    np.testing.assert_allclose(found.scores, expected, atol=0.01 * float(epsilon))


def test_scores_in_blocks_are_those_of_the_whole_matrix():
    """Whatever there is besides: rows that are not finite, rows without mass, an offset."""
    for seed in range(3):
        pool, target = samples(seed)
        a, b = np.where(np.arange(100) % 5, 1.0, 0.0), np.where(np.arange(30) % 7, 1.0, 0.0)
        gone, spoilt = (a == 0) | (np.arange(100) % 11 == 3), np.arange(30) % 9 == 4
        far, goal = (x + np.float32(50) for x in (pool, target))
        far[np.arange(100) % 11 == 3], far[10], goal[spoilt] = np.nan, np.inf, np.nan
        found = in_blocks(far, goal, f32(a), f32(b))
        cost = scipy.spatial.distance.cdist(pool, target, "sqeuclidean")
        exact = functools.partial(selection.transport_scores, epsilon=0.02, max_iterations=20_000)
        expected = np.full(100, np.inf)
        left = f32(cost[~gone][:, ~spoilt]), f32(a[~gone]), f32(b[~spoilt])
        expected[~gone] = jax.jit(lambda c, a, b, f=exact: f(c, weights=a, target_weights=b))(*left)
        assert found.converged
        scale = 0.02 * cost.mean()
        np.testing.assert_allclose(found.scores[~gone], expected[~gone], atol=0.05 * float(scale))
        assert np.all(np.isposinf(found.scores[gone]))


def test_a_sample_is_a_good_start():
    pool, target = samples(0, 1000)
    ones = jnp.ones(30)
    first = in_blocks(pool[::5], target, jnp.ones(200), ones)
    start = jax.jit(lambda p, t, g: selection.transport_scores_in_blocks(p, t, epsilon=0.02, potentials=g))
    cold, warm = (start(pool, target, g) for g in (jnp.zeros(30), first.potentials))
    assert cold.converged and warm.converged and warm.iterations < cold.iterations


def test_no_target_and_no_candidate_are_no_nan():
    pool, target = samples()
    for spoilt in ((np.full_like(pool, np.nan), target), (pool, np.full_like(target, np.nan))):
        found = in_blocks(*spoilt, jnp.ones(100), jnp.ones(30))
        assert not np.any(np.isnan(found.scores))


def test_masses_that_are_no_masses_count_as_zero():
    pool, target = samples()
    a, b = np.ones(100), np.ones(30)
    a[[3, 7]], b[4] = 0, 0
    expected = in_blocks(pool, target, f32(a), f32(b))
    a[[3, 7]], b[4] = [np.nan, -3], np.inf
    found = in_blocks(pool, target, f32(a), f32(b))
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.converged and np.isposinf(found.scores[3])


def test_no_matrix_of_candidates_and_targets_is_formed():
    rows, targets = jax.ShapeDtypeStruct((1 << 16, 4), "float32"), jax.ShapeDtypeStruct((256, 4), "float32")
    call = jax.jit(functools.partial(selection.transport_scores_in_blocks, block_size=512))
    memory: Any = call.lower(rows, targets).compile().memory_analysis()
    assert memory.temp_size_in_bytes < (1 << 16) * 256 * 4 / 8


def test_bad_input_is_named():
    with pytest.raises(TypeError, match="cost has dtype int32"):
        selection.transport_scores(jnp.ones((3, 2), int))
    with pytest.raises(ValueError, match="target_weights has shape"):
        selection.transport_scores(jnp.ones((3, 2)), target_weights=jnp.ones(3))
    with pytest.raises(ValueError, match="epsilon is -0.1"):
        selection.transport_scores(jnp.ones((3, 2)), epsilon=-0.1)
    with pytest.raises(ValueError, match=r"targets has shape \[0, 2\], wanted \[any size > 0, 2\]"):
        selection.transport_scores_in_blocks(jnp.ones((3, 2)), jnp.ones((0, 2)))
    with pytest.raises(ValueError, match="tolerance is -1"):
        selection.transport_scores_in_blocks(jnp.ones((3, 2)), jnp.ones((1, 2)), tolerance=-1)
    with pytest.raises(ValueError, match="where has shape"):
        selection.calibrated_gradient(jnp.ones(3), where=jnp.ones(2, bool))
