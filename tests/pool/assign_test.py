"""Rows of a pool assigned to centers are those of the array."""

import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.pool import assign_rows
from tests.pool.select_test import clusters


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("block_size", [64, 1000])
def test_a_file_gives_what_the_array_gives(metric, block_size, tmp_path):
    x = clusters()
    centers = x[[1, 9, 40, 77, 200]]
    np.save(tmp_path / "pool.npy", x)
    expected = selection.assign_rows(x, centers, metric=metric)
    for pool in (x, tmp_path / "pool.npy", np.load(tmp_path / "pool.npy", mmap_mode="r")):
        found = assign_rows(pool, centers, metric=metric, block_size=block_size)
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-4, atol=0.01)
        assert found.dropped == 2 and found.indices[5] == -1 and np.isnan(found.distances[170])


def test_centers_that_are_not_finite_are_nearest_to_none():
    x = clusters(1)
    centers = np.stack([np.full(6, np.nan), x[0], x[1]]).astype(np.float32)
    found = assign_rows(x, centers)
    assert set(found.indices.tolist()) == {-1, 1, 2}


def test_bad_input_is_named():
    x = clusters(2)
    with pytest.raises(ValueError, match="centers has no row of 1 that is finite"):
        assign_rows(x, np.full((1, 6), np.nan))
    with pytest.raises(ValueError, match=r"centers has shape \[2, 3\]"):
        assign_rows(x, np.ones((2, 3)))
    with pytest.raises(TypeError, match="centers has dtype int64"):
        assign_rows(x, np.ones((2, 6), int))
    with pytest.raises(ValueError, match="has no row of 300 that is finite"):
        assign_rows(np.full_like(x, np.nan), np.ones((2, 6)))
    with pytest.raises(ValueError, match="metric is 'l1'"):
        assign_rows(x, x[:2], metric="l1")
