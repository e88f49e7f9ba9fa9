import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.distance import cdist

from minibatch_jax import mining
from tests.mining.peer import PEER, X


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
    function = jax.jit(function)
    np.testing.assert_allclose(function(jnp.asarray(x), jnp.asarray(y)), cdist(x, y, metric), rtol=1e-5)
    np.testing.assert_allclose(function(jnp.asarray(x)), cdist(x, x, metric), rtol=1e-5, atol=1e-6)


def test_cosine_equals_scipy():
    x, y = points(7, 0), points(4, 1)
    np.testing.assert_allclose(
        jax.jit(mining.cosine_similarity)(jnp.asarray(x), jnp.asarray(y)), 1 - cdist(x, y, "cosine"), atol=1e-6
    )


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_duplicates_have_distance_and_gradient_zero(scale):
    x = points(6, 2) * np.float32(scale)
    x[[3, 4]], x[1] = 0, x[0]
    distances, vjp = jax.jit(functools.partial(jax.vjp, mining.euclidean_distances))(x)
    distances, vjp = np.asarray(distances), jax.jit(vjp)
    np.testing.assert_array_equal(np.diagonal(distances), 0)
    assert distances[0, 1] == 0 and distances[3, 4] == 0
    cotangent = np.zeros((6, 6), np.float32)
    cotangent[[0, 3], [1, 4]] = 1
    np.testing.assert_array_equal(vjp(cotangent)[0], 0)
    assert np.all(np.isfinite(vjp(np.ones((6, 6), np.float32))[0]))


def test_near_duplicates_on_the_sphere_are_never_nan_nor_negative():
    x = jax.jit(mining.normalize_embeddings)(points(1, 3, 128) + np.float32(1e-5) * points(30, 4, 128))
    distances = jax.jit(mining.euclidean_distances)(x)
    assert np.all(np.isfinite(distances)) and np.all(np.asarray(distances) >= 0)
    assert np.all(np.isfinite(jax.jit(jax.grad(lambda x: mining.euclidean_distances(x).sum()))(x)))


@pytest.mark.parametrize(
    "function", [mining.squared_euclidean_distances, mining.euclidean_distances, mining.cosine_similarity]
)
def test_gradients(function):
    with jax.enable_x64(True):
        x, y = jnp.asarray(points(3, 0), jnp.float64), jnp.asarray(points(4, 1), jnp.float64)
        check_grads(jax.jit(function), (x, y), order=1, modes=["rev"])


def test_normalize_keeps_directions_and_zero_rows():
    x = points(4, 5)
    x[2] = 0
    unit, vjp = jax.jit(functools.partial(jax.vjp, mining.normalize_embeddings))(x)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), [1, 1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(x, axis=1)[:, None], x, rtol=1e-5)
    (gradient,) = jax.jit(vjp)(np.ones_like(unit))
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


FUNCTIONS = [
    mining.squared_euclidean_distances,
    mining.euclidean_distances,
    mining.cosine_similarity,
    mining.noise_ratio_distances,
    mining.lp_distances,
]
each_function = pytest.mark.parametrize("function", FUNCTIONS)


@each_function
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_only_rounds_the_result(function, dtype):
    near = points(1, 6, 64) + 0.02 * points(12, 7, 64)
    x = jnp.asarray(near).astype(dtype)
    step = jax.jit(function)
    actual, expected = step(x), step(x.astype(jnp.float32))
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, np.asarray(expected).astype(dtype))
    if function is not mining.cosine_similarity:
        np.testing.assert_array_equal(np.asarray(actual) > 0, ~np.eye(12, dtype=bool))


def test_nearby_points_in_bfloat16_have_a_gradient():
    x = jnp.asarray(points(1, 6, 64) + 0.02 * points(4, 7, 64)).astype(jnp.bfloat16)
    slope = jax.jit(jax.grad(lambda x: mining.euclidean_distances(x).sum()))
    gradient, expected = slope(x), slope(x.astype(jnp.float32))
    np.testing.assert_allclose(np.asarray(gradient, np.float32), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype,length", [("float16", 200.0), ("float32", 1e-23), ("float32", 1e19), ("float32", 1e38)])
def test_cosine_of_very_long_and_very_short_rows(dtype, length):
    x = jnp.asarray(points(6, 8) * np.float32(length) / 3).astype(dtype)
    tolerance = 1e-3 if dtype == "float16" else 1e-6
    expected = 1 - cdist(np.asarray(x, np.float64), np.asarray(x, np.float64), "cosine")
    np.testing.assert_allclose(jax.jit(mining.cosine_similarity)(x), expected, atol=tolerance)
    norms = np.linalg.norm(np.asarray(jax.jit(mining.normalize_embeddings)(x), np.float64), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=tolerance)


def test_gradient_of_short_rows_and_rows_that_underflow():
    x = points(4, 9)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(mining.cosine_similarity(x)[0])))
    expected = gradient(jnp.asarray(x))
    np.testing.assert_allclose(gradient(jnp.asarray(x * 1e-20)) * 1e-20, expected, rtol=1e-4, atol=1e-6)
    assert np.all(np.isfinite(gradient(jnp.asarray(x).at[1].set(0).at[2].set(1e-44))))


def test_gradient_of_normalize():
    with jax.enable_x64(True):
        x = jnp.asarray(points(4, 5), jnp.float64)
        check_grads(jax.jit(mining.normalize_embeddings), (x,), order=2, modes=["rev"])


@each_function
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_broken_row_spoils_neither_other_rows_nor_their_gradients(function, bad):
    x, y = points(6, 10), points(5, 11)
    broken = np.array([False, True, False, False, False, False])
    spoilt = x.copy()
    spoilt[1, 2] = bad

    def total(x, y):
        values = function(x, y)
        return jnp.sum(jnp.where(jnp.isfinite(values), values, 0) ** 2), values

    step = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (gradient, by_reference), values = jax.tree.map(np.asarray, step(spoilt, y))
    (expected, _), clean = jax.tree.map(np.asarray, step(x, y))
    np.testing.assert_array_equal(np.isnan(values), np.broadcast_to(broken[:, None], (6, 5)))
    np.testing.assert_allclose(values[~broken], clean[~broken], rtol=1e-6)
    np.testing.assert_allclose(gradient[~broken], expected[~broken], rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(gradient[broken], 0)
    assert np.all(np.isfinite(by_reference))
    gradient, values = jax.grad(lambda x: total(x, x), has_aux=True)(spoilt)
    np.testing.assert_array_equal(np.isnan(values), broken[:, None] | broken[None])
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


def test_a_broken_row_keeps_the_gradient_of_normalized_losses_finite():
    x, labels = points(6, 12), jnp.array([0, 0, 1, 1, 0, 1])
    x[3] = np.nan
    masks = mining.positive_mask(labels), mining.negative_mask(labels)

    def loss(x):
        unit = mining.normalize_embeddings(x)
        pairs = mining.triplet_loss(mining.euclidean_distances(unit), *masks)
        return pairs + mining.supcon_loss(mining.cosine_similarity(unit), *masks)

    value, gradient = jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(loss))(x))
    assert np.isfinite(value) and np.all(np.isfinite(gradient)) and np.any(gradient[0] != 0)
    np.testing.assert_array_equal(gradient[3], 0)


def test_noise_ratio_distances_equal_variances():
    rng = np.random.default_rng(9)
    x, r = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    expected = [[np.var(a - b) / np.var(a) for b in r] for a in x]
    np.testing.assert_allclose(mining.noise_ratio_distances(jnp.asarray(x), jnp.asarray(r)), expected, rtol=1e-4)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, np.inf])
def test_lp_distances_equal_scipy(p):
    x, y = points(7, 0), points(4, 1)
    function = jax.jit(functools.partial(mining.lp_distances, p=p))
    metric = {"metric": "chebyshev"} if p == np.inf else {"metric": "minkowski", "p": p}
    for scale in (1.0, 1e-18, 1e18):
        found = function(jnp.asarray(x * np.float32(scale)), jnp.asarray(y * np.float32(scale)))
        np.testing.assert_allclose(found, scale * cdist(x, y, **metric), rtol=1e-5)


@pytest.mark.parametrize("p", [1.0, 1.5, 3.0, np.inf])
def test_lp_gradients_and_those_at_duplicates(p):
    with jax.enable_x64(True):
        x, y = jnp.asarray(points(3, 0), jnp.float64), jnp.asarray(points(4, 1), jnp.float64)
        check_grads(jax.jit(functools.partial(mining.lp_distances, p=p)), (x, y), order=1, modes=["rev"])
    x = jnp.asarray(points(4, 2)).at[1].set(points(4, 2)[0])
    gradient = jax.jit(jax.grad(lambda x: mining.lp_distances(x, p=p)[0, 1]))(x)
    np.testing.assert_array_equal(gradient, 0)
    assert jnp.all(jnp.isfinite(jax.grad(lambda x: mining.lp_distances(x, p=p).sum())(x)))


def test_lp_distances_equal_those_of_the_peer_and_mark_broken_rows():
    for p, expected in PEER["lp_distances"].items():
        np.testing.assert_allclose(mining.lp_distances(jnp.asarray(X), p=float(p)), expected, rtol=1e-5, atol=1e-6)
    found = mining.lp_distances(jnp.array([[0.0, jnp.nan], [1.0, 2.0]]), jnp.array([[0.0, 0.0]]))
    np.testing.assert_array_equal(found, [[np.nan], [3.0]])
    with pytest.raises(ValueError, match="p is 0.5"):
        mining.lp_distances(jnp.ones((2, 2)), p=0.5)
