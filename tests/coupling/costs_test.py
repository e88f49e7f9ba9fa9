import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from minibatch_jax.coupling.costs import cosine_cost, euclidean_cost, squared_euclidean_cost

COSTS = {
    "sqeuclidean": jax.jit(squared_euclidean_cost),
    "euclidean": jax.jit(euclidean_cost),
    "cosine": jax.jit(cosine_cost),
}


def batches(seed=0, n=5, m=7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2, 3)).astype(np.float32), rng.normal(size=(m, 2, 3)).astype(np.float32)


@pytest.mark.parametrize("metric", COSTS)
def test_is_that_of_scipy(metric):
    x0, x1 = batches()
    expected = cdist(x0.reshape(5, -1), x1.reshape(7, -1), metric)
    np.testing.assert_allclose(COSTS[metric](x0, x1), expected, rtol=1e-5, atol=1e-6)


def test_a_common_offset_does_not_cost_accuracy():
    x0, x1 = batches()
    expected = cdist(x0.reshape(5, -1), x1.reshape(7, -1), "sqeuclidean")
    np.testing.assert_allclose(squared_euclidean_cost(x0 + 256, x1 + 256), expected, rtol=1e-3)


@pytest.mark.parametrize("metric", COSTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_row_reaches_no_other(metric, bad):
    x0, x1 = batches()
    y0, y1 = x0.copy(), x1.copy()
    y0[2, 0, 0], y1[4, 1, 1] = bad, bad
    cost = np.asarray(COSTS[metric](y0, y1))
    clean = np.asarray(COSTS[metric](x0, x1))
    assert not np.isfinite(cost[2]).any() and not np.isfinite(cost[:, 4]).any()
    rest = np.ix_([0, 1, 3, 4], [0, 1, 2, 3, 5, 6])
    np.testing.assert_allclose(cost[rest], clean[rest], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", COSTS)
def test_gradient_is_finite_where_items_coincide_and_correct_elsewhere(metric):
    x0, x1 = batches(n=3, m=3)
    with jax.enable_x64(True):
        x0, x1 = x0.astype(np.float64), x1.astype(np.float64)
        total = lambda x: jnp.sum(COSTS[metric](x, x1))  # noqa: E731
        gradient, direction = jax.jit(jax.grad(total)), np.ones_like(x0)
        slope, direction[0] = gradient(x0), -2
        change = (total(x0 + 1e-6 * direction) - total(x0 - 1e-6 * direction)) / 2e-6
        np.testing.assert_allclose(np.sum(slope * direction), change, rtol=1e-6)
        assert np.all(np.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(COSTS[metric](x, x))))(x0)))
        assert np.all(np.isfinite(gradient(np.zeros_like(x0))))


def test_bad_input_raises():
    with pytest.raises(ValueError, match=r"x1 has shape \[2, 4\], wanted \[B1, 3\]"):
        squared_euclidean_cost(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="x0 has dtype int32"):
        euclidean_cost(jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="wanted at least one item each"):
        cosine_cost(jnp.ones((0, 3)), jnp.ones((2, 3)))
