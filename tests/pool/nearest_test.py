"""The two-stage search over a file finds what that over an array finds, and reads few rows."""

import jax
import numpy as np
import pytest

from minibatch_jax import metrics
from minibatch_jax.metrics.quantized_search import ProductCode
from minibatch_jax.pool import compress_rows, nearest_rows
from minibatch_jax.pool._open import Pool
from tests.metrics.quantized_search_test import data, recall, similarities

OPTIONS = {"num_parts": 4, "num_codes": 32, "max_iterations": 8, "progress": False}


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "inner_product"])
def test_finds_nearly_all_of_the_nearest_and_what_the_array_gives(metric, tmp_path):
    rows, queries = data()
    np.save(tmp_path / "first.npy", rows[:700])
    np.save(tmp_path / "second.npy", rows[700:])
    pool = [tmp_path / "first.npy", tmp_path / "second.npy"]
    code = compress_rows(pool, metric=metric, block_size=512, **OPTIONS)
    found = nearest_rows(pool, queries, 10, code, shortlist=200, block_size=512)
    true = np.argsort(-similarities(rows, queries, metric), axis=1)[:, :10]
    assert recall(found.indices, true) >= 0.95 and code.dropped == found.dropped_queries == 0
    on_device = ProductCode(*map(jax.numpy.asarray, code[:3]), metric=metric)
    search = jax.jit(lambda q, r, c: metrics.quantized_neighbors(q, r, c, 10, shortlist=200, block_size=512))
    expected = search(queries, rows, on_device)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.similarities, expected.similarities, rtol=1e-5, atol=1e-5)


def test_rows_and_queries_that_are_not_finite_are_reported():
    rows, queries = (x.copy() for x in data())
    rows[[2, 9]], rows[12], queries[3], queries[4] = np.nan, 1e30, np.inf, 1e30
    code = compress_rows(rows, block_size=512, **OPTIONS)
    found = nearest_rows(rows, queries, 10, code, shortlist=200, block_size=512)
    assert code.dropped == 3 and np.flatnonzero(~code.usable).tolist() == [2, 9, 12] and found.dropped_queries == 2
    assert not np.isin(found.indices, [2, 9, 12]).any() and (found.indices[3:5] == -1).all()


def test_only_the_short_lists_are_read(monkeypatch):
    rows, queries = data()
    code = compress_rows(rows, block_size=512, **OPTIONS)
    asked, read = [], Pool.__getitem__

    def record(pool, numbers):
        asked.append(read(pool, numbers))
        return asked[-1]

    monkeypatch.setattr(Pool, "__getitem__", record)
    nearest_rows(rows, queries[:2], 10, code, shortlist=200, block_size=512)
    assert sum(map(len, asked)) <= 2 * 200 + 2


def test_bad_input_is_named():
    rows, queries = data()
    code = compress_rows(rows, block_size=512, **OPTIONS)
    with pytest.raises(ValueError, match="code is of another pool of 1500 rows"):
        nearest_rows(rows + 1, queries, 10, code)
    with pytest.raises(ValueError, match="code is of another pool of 1500 rows"):
        nearest_rows(rows[:900], queries, 10, code)
    with pytest.raises(ValueError, match=r"k is 1501, wanted at most 1500"):
        nearest_rows(rows, queries, 1501, code)
    with pytest.raises(ValueError, match=r"queries has shape \[0, 16\]"):
        nearest_rows(rows, queries[:0], 1, code)
    with pytest.raises(TypeError, match="queries has dtype int64"):
        nearest_rows(rows, queries.astype(int), 1, code)
    with pytest.raises(ValueError, match="num_parts is 5, wanted a divisor of 16"):
        compress_rows(rows, num_parts=5, progress=False)
    with pytest.raises(ValueError, match="has no row of 300 that is finite"):
        compress_rows(np.full((300, 4), np.nan, np.float32), num_parts=2, num_codes=4, max_iterations=1, progress=False)


@pytest.mark.parametrize("shown", [False, True])
def test_progress_of_the_compression_is_shown_if_it_is_wanted(shown, capsys):
    pytest.importorskip("rich")
    rows, _ = data()
    compress_rows(rows, block_size=512, **(OPTIONS | {"progress": shown}))
    assert ("compress_rows" in capsys.readouterr().out) == shown
