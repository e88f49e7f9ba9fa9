"""Squared distances, cosines and unit rows against float64: offsets, scales, half precision, broken rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from minibatch_jax import geometry
from minibatch_jax.coupling.costs import cosine_cost, euclidean_cost, squared_euclidean_cost
from minibatch_jax.mining.distances import cosine_similarity, euclidean_distances, squared_euclidean_distances

SQUARED = {
    "geometry": geometry.squared_distances,
    "mining": squared_euclidean_distances,
    "coupling": squared_euclidean_cost,
}
PLAIN = {
    "geometry": lambda x, y: geometry.root(geometry.squared_distances(x, y)),
    "mining": euclidean_distances,
    "coupling": euclidean_cost,
}
COSINES = {
    "geometry": geometry.cosines,
    "mining": cosine_similarity,
    "coupling": lambda x, y: 1 - cosine_cost(x, y),
}


def sets(scale=1.0, offset=0.0, seed=0):
    """Rounded to float32 before the float64 reference sees them."""
    rng = np.random.default_rng(seed)
    return [(offset + scale * rng.normal(size=(n, 5))).astype(np.float32) for n in (6, 9)]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 100.0, -1e4])
@pytest.mark.parametrize("name", SQUARED)
def test_squared_distances_at_every_scale_and_offset(name, scale, offset):
    x, y = sets(scale, offset * scale)
    expected = cdist(x.astype(np.float64), y.astype(np.float64), "sqeuclidean")
    actual = jax.jit(SQUARED[name])(x, y)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * scale**2)


@pytest.mark.parametrize("name", PLAIN)
def test_a_small_spread_at_a_large_offset_has_distances_and_gradients(name):
    x, y = sets(0.01, 100.0)
    apart = x.astype(np.float64)[:, None] - y.astype(np.float64)[None]
    expected = np.linalg.norm(apart, axis=-1)
    actual = PLAIN[name](jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    slope = jax.grad(lambda x: jnp.sum(PLAIN[name](x, jnp.asarray(y))))(jnp.asarray(x))
    np.testing.assert_allclose(slope, np.sum(apart / expected[:, :, None], axis=1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PLAIN)
def test_two_large_numbers_are_as_far_apart_as_they_are(name):
    assert PLAIN[name](jnp.array([[512695.0]]), jnp.array([[512804.0]])).tolist() == [[109.0]]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_equal_rows_have_distance_and_gradient_zero(name, offset):
    x = jnp.asarray(np.repeat(sets(1.0, offset)[0][:1], 4, axis=0))
    value, slope = jax.value_and_grad(lambda x: jnp.sum(PLAIN[name](x, x)))(x)
    assert value == 0
    np.testing.assert_array_equal(slope, jnp.zeros_like(x))


@pytest.mark.parametrize("far", [1e6, -1e8, 1e20])
@pytest.mark.parametrize("name", SQUARED)
def test_a_far_row_does_not_blur_the_others(name, far):
    x, y = sets()
    expected = cdist(x.astype(np.float64), y.astype(np.float64), "sqeuclidean")
    x[2], y[4] = far, far
    actual = np.asarray(SQUARED[name](x, y))
    rest = np.ix_([0, 1, 3, 4, 5], [0, 1, 2, 3, 5, 6, 7, 8])
    np.testing.assert_allclose(actual[rest], expected[rest], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x, y = (jnp.asarray(v, dtype) for v in sets(1.0, 30.0))
    wide = [np.asarray(v.astype(jnp.float32), np.float64) for v in (x, y)]
    squared, cosines = geometry.squared_distances(x, y), geometry.cosines(x, y)
    assert squared.dtype == cosines.dtype == geometry.unit_rows(x).dtype == jnp.float32
    np.testing.assert_allclose(squared, cdist(*wide, "sqeuclidean"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cosines, 1 - cdist(*wide, "cosine"), rtol=1e-5)
    costs = squared_euclidean_cost(x, y)
    assert costs.dtype == jnp.float32
    np.testing.assert_array_equal(costs, squared)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("kind", ["squared", "plain", "cosine"])
def test_a_broken_row_spoils_neither_values_nor_gradients(kind, offset, bad):
    for function in {"squared": SQUARED, "plain": PLAIN, "cosine": COSINES}[kind].values():
        x, y = sets(1.0, offset)
        clean = np.asarray(function(x, y), np.float64)
        x[2, 1], y[4, 0] = bad, bad
        value = np.asarray(function(x, y))
        assert np.all(np.isnan(value[2])) and np.all(np.isnan(value[:, 4]))
        rest = np.ix_([0, 1, 3, 4, 5], [0, 1, 2, 3, 5, 6, 7, 8])
        np.testing.assert_allclose(value[rest], clean[rest], rtol=1e-4, atol=1e-6)
        slope = np.asarray(jax.grad(lambda *pair, f=function: jnp.nansum(f(*pair)))(jnp.asarray(x), jnp.asarray(y)))
        assert np.all(np.isfinite(slope))
        np.testing.assert_array_equal(slope[2], 0)


@pytest.mark.parametrize("name", COSINES)
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e3, 1e30])
def test_cosines_at_every_scale(name, scale):
    x, y = sets()
    expected = 1 - cdist(x.astype(np.float64), y.astype(np.float64), "cosine")
    np.testing.assert_allclose(COSINES[name](x * np.float32(scale), y), expected, rtol=1e-5, atol=1e-6)


def test_unit_rows_of_zeros_and_broken_rows_are_zero_with_gradient_zero():
    x = jnp.asarray(sets()[0]).at[1].set(0).at[3, 2].set(jnp.nan).at[4, 0].set(jnp.inf)
    rows = geometry.unit_rows(x)
    np.testing.assert_allclose(jnp.sum(rows**2, axis=1), [1, 0, 1, 0, 0, 1], rtol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(geometry.unit_rows(x) * jnp.arange(5.0)[None]))(x)
    np.testing.assert_array_equal(slope[jnp.array([1, 3, 4])], 0)
    assert jnp.all(jnp.isfinite(slope)) and jnp.any(slope[0] != 0)


def test_the_floor_and_the_origin_are_what_they_are_set_to():
    x, y = jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [1.25]])
    assert geometry.squared_distances(x, y).tolist() == [[0.0, 0.0625], [1.0, 0.5625]]
    at_zero = geometry.squared_distances(x, y, floor=0.1, origin=jnp.zeros(1))
    assert at_zero.tolist() == [[0.0, 0.0], [1.0, 0.5625]]
    assert geometry.center(jnp.full((2, 3), jnp.nan)).tolist() == [0.0, 0.0, 0.0]


def test_rows_with_a_nan_among_many_columns_are_not_measurable():
    """A maximum over a row does not tell: on a CPU, XLA's may skip a NaN."""
    rows = np.random.default_rng(0).normal(size=(1500, 16)).astype(np.float32)
    rows[::6, 3], rows[3::6] = np.nan, 1e30
    kept, measurable = jax.jit(geometry.measurable_rows)(rows)
    np.testing.assert_array_equal(measurable, np.arange(1500) % 3 != 0)
    np.testing.assert_array_equal(kept, np.where((np.arange(1500) % 3 != 0)[:, None], rows, 0))
