"""Rows assigned to centers against a search in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection

assign = jax.jit(selection.assign_rows, static_argnames=("metric", "block_size"))


def nearest(x, centers):
    distances = np.linalg.norm(x[:, None].astype(np.float64) - centers[None].astype(np.float64), axis=2)
    return distances.argmin(1), distances.min(1)


@pytest.mark.parametrize("block_size", [7, 64, 4096])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_is_the_nearest_center(block_size, offset):
    rng = np.random.default_rng(0)
    x, centers = (rng.normal(size=(n, 3)).astype(np.float32) + np.float32(offset) for n in (65, 5))
    index, distance = assign(jnp.asarray(x), jnp.asarray(centers), block_size=block_size)
    expected = nearest(x, centers)
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_allclose(distance, expected[1], rtol=1e-5)


def test_cosines_and_ties():
    rng = np.random.default_rng(1)
    x, centers = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(6, 4)).astype(np.float32)
    centers[4] = centers[1]
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    index, distance = assign(jnp.asarray(x), jnp.asarray(3 * centers), metric="cosine", block_size=8)
    expected = nearest(unit(x), unit(centers))
    assert 1 in expected[0] and 4 not in expected[0]
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_allclose(distance, expected[1], rtol=1e-4)


def test_rows_that_are_absent_or_not_finite_have_no_center_and_broken_centers_no_rows():
    x = jnp.array([[0.0], [jnp.nan], [5.0], [4.0], [1e30]])
    where = jnp.array([True, True, True, False, True])
    found = assign(x, jnp.array([[jnp.nan], [1.0], [jnp.inf]]), where=where)
    assert found.indices.tolist() == [1, -1, 1, -1, -1]
    np.testing.assert_array_equal(found.distances, [1, np.nan, 4, np.nan, np.nan])
    assert assign(x, jnp.full((2, 1), jnp.nan)).indices.tolist() == [-1] * 5


def test_owners_of_a_k_center_choice_are_the_nearest():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(200, 3)), jnp.float32)
    centers = jax.jit(selection.k_center, static_argnums=1)(x, 9)
    index, distance = assign(x, x[centers.indices])
    np.testing.assert_array_equal(index, centers.owners)
    np.testing.assert_allclose(jnp.max(distance), centers.radius, rtol=1e-5)


def test_no_array_of_all_distances_is_formed():
    call = jax.jit(lambda x, c: selection.assign_rows(x, c, block_size=64))
    rows, centers = (jax.ShapeDtypeStruct((n, 8), "float32") for n in (16_384, 512))
    assert call.lower(rows, centers).compile().memory_analysis().temp_size_in_bytes < 16_384 * 512


def test_bad_input_is_named():
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"centers has shape \[2, 3\], wanted \[any size > 0, 2\]"):
        selection.assign_rows(x, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="metric is 'l3'"):
        selection.assign_rows(x, x, metric="l3")
    with pytest.raises(ValueError, match="block_size is 0"):
        selection.assign_rows(x, x, block_size=0)
    with pytest.raises(TypeError, match="centers has dtype int32"):
        selection.assign_rows(x, jnp.ones((2, 2), int))
