"""Rows of a file that sets take in turn are those of the plain loop."""

import numpy as np
import pytest

from minibatch_jax.pool import nearest_in_turn
from tests.selection.query_sets_test import K, N, assert_plain, drawn, plain


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("quotas", [None, (2, 0, 9, 4)])
def test_a_file_gives_what_the_plain_loop_gives(metric, quotas, tmp_path):
    rows, queries = drawn(4)
    rows[7] = np.nan
    np.save(tmp_path / "pool.npy", rows)
    sets = [queries[0], queries[1, :1], queries[2], queries[3, :2]]
    found = nearest_in_turn(tmp_path / "pool.npy", sets, K, quotas=quotas, metric=metric, block_size=16)
    assert_plain(found, plain(rows, sets, K, quotas, metric))
    assert found.dropped == 1 and found.dropped_queries == 0


def test_fewer_rows_than_asked_for_and_queries_that_are_not_finite():
    rows, queries = drawn(5)
    rows[40:], queries[1, 0] = np.nan, np.inf
    found = nearest_in_turn(rows, queries, N, block_size=16)
    assert_plain(found, plain(rows, queries, N))
    assert found.dropped == 20 and found.dropped_queries == 1 and (found.indices[40:] == N).all()
    unlimited = nearest_in_turn(rows, queries, N, quotas=np.full(4, 2**40), block_size=16)
    np.testing.assert_array_equal(unlimited.indices, found.indices)


def test_copies_in_several_blocks_tie():
    rows, queries = drawn(7)
    rows = rows[np.random.default_rng(7).integers(0, 20, N)]
    assert_plain(nearest_in_turn(rows, queries, N, block_size=16), plain(rows, queries, N))


def test_bad_input_is_named():
    rows, queries = drawn(6)
    with pytest.raises(ValueError, match="queries is empty, wanted at least one set"):
        nearest_in_turn(rows, [], 3)
    with pytest.raises(ValueError, match=r"queries\[1\] has shape \[0, 5\]"):
        nearest_in_turn(rows, [queries[0], queries[0][:0]], 3)
    with pytest.raises(ValueError, match=r"queries\[0\] has no row of 3 that is finite"):
        nearest_in_turn(rows, queries * np.nan, 3)
    with pytest.raises(ValueError, match=r"k is 61, wanted at most 60 \(the number of rows\)"):
        nearest_in_turn(rows, queries, 61)
    with pytest.raises(ValueError, match=r"quotas has shape \[2\], wanted \[4\]"):
        nearest_in_turn(rows, queries, 3, quotas=[1, 2])
    with pytest.raises(TypeError, match="quotas has dtype float"):
        nearest_in_turn(rows, queries, 3, quotas=[1.0] * 4)
