import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.distance import cdist

from minibatch_jax import mining


def points(rows, seed, width=5):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


@pytest.mark.parametrize(
    "function,metric",
    [
        (mining.squared_euclidean_distances, "sqeuclidean"),
        (mining.euclidean_distances, "euclidean"),
    ],
)
def test_distances_equal_scipy(function, metric):
    x, y = points(7, 0), points(4, 1)
    np.testing.assert_allclose(function(jnp.asarray(x), jnp.asarray(y)), cdist(x, y, metric), rtol=1e-5)
    np.testing.assert_allclose(function(jnp.asarray(x)), cdist(x, x, metric), rtol=1e-5, atol=1e-6)


def test_cosine_equals_scipy():
    x, y = points(7, 0), points(4, 1)
    np.testing.assert_allclose(
        mining.cosine_similarity(jnp.asarray(x), jnp.asarray(y)), 1 - cdist(x, y, "cosine"), atol=1e-6
    )


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_duplicates_have_distance_and_gradient_zero(scale):
    x = jnp.asarray(points(6, 2) * scale).at[3].set(0).at[4].set(0)
    x = x.at[1].set(x[0])
    distances, vjp = jax.vjp(mining.euclidean_distances, x)
    np.testing.assert_array_equal(jnp.diagonal(distances), 0)
    assert distances[0, 1] == 0 and distances[3, 4] == 0
    (gradient,) = vjp(jnp.zeros((6, 6)).at[0, 1].set(1.0).at[3, 4].set(1.0))
    np.testing.assert_array_equal(gradient, 0)
    assert np.all(np.isfinite(vjp(jnp.ones((6, 6)))[0]))


def test_near_duplicates_on_the_sphere_are_never_nan_nor_negative():
    x = mining.normalize_embeddings(jnp.asarray(points(1, 3, 128)) + 1e-5 * jnp.asarray(points(30, 4, 128)))
    distances = mining.euclidean_distances(x)
    assert np.all(np.isfinite(distances)) and np.all(distances >= 0)
    assert np.all(np.isfinite(jax.grad(lambda x: mining.euclidean_distances(x).sum())(x)))


@pytest.mark.parametrize(
    "function", [mining.squared_euclidean_distances, mining.euclidean_distances, mining.cosine_similarity]
)
def test_gradients(function):
    with jax.enable_x64(True):
        x, y = jnp.asarray(points(3, 0), jnp.float64), jnp.asarray(points(4, 1), jnp.float64)
        check_grads(jax.jit(function), (x, y), order=1, modes=["rev"])


def test_normalize_keeps_directions_and_zero_rows():
    x = jnp.asarray(points(4, 5)).at[2].set(0)
    unit, vjp = jax.vjp(mining.normalize_embeddings, x)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1, 1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(x, axis=1)[:, None], x, rtol=1e-5)
    (gradient,) = vjp(jnp.ones_like(unit))
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(np.sum(gradient * x, axis=1), 0, atol=1e-5)  # orthogonal to the ray


def test_bad_input_is_named():
    x = jnp.ones((3, 2))
    with pytest.raises(ValueError, match=r"references has shape \[4, 3\]"):
        mining.euclidean_distances(x, jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="embeddings has shape"):
        mining.cosine_similarity(jnp.ones(3))
    with pytest.raises(TypeError, match="embeddings has dtype int32"):
        mining.squared_euclidean_distances(jnp.ones((3, 2), jnp.int32))
