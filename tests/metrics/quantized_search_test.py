"""The search in two stages against a search in NumPy and against faiss."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import metrics
from minibatch_jax.metrics import _product_codes, quantized_search

N, D, Q, K = 1500, 16, 40, 10


@functools.cache
def data():
    """Rows in 30 clusters, and queries near them."""
    rng = np.random.default_rng(0)
    centers = 2 * rng.normal(size=(30, D))
    rows, queries = (centers[rng.integers(30, size=n)] + rng.normal(size=(n, D)) for n in (N, Q))
    return rows.astype(np.float32), queries.astype(np.float32)


@functools.partial(jax.jit, static_argnames=("metric", "shortlist"))
def search(rows, queries, where, metric="sqeuclidean", shortlist=200):
    code = metrics.product_code(0, rows, num_parts=4, num_codes=32, metric=metric, where=where, max_iterations=8)
    return metrics.quantized_neighbors(queries, rows, code, K, shortlist=shortlist, block_size=512), code


def found_by(rows, queries, metric="sqeuclidean", shortlist=200, where=None):
    where = np.ones(len(rows), bool) if where is None else where
    return search(jnp.asarray(rows), jnp.asarray(queries), jnp.asarray(where), metric, shortlist)


def similarities(rows, queries, metric):
    rows, queries = rows.astype(np.float64), queries.astype(np.float64)
    if metric == "sqeuclidean":
        return -((queries[:, None] - rows[None]) ** 2).sum(2)
    if metric == "cosine":
        rows, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    return queries @ rows.T


def recall(indices, true):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(np.asarray(indices).tolist(), true.tolist())])


@pytest.mark.parametrize("metric", _product_codes.METRICS)
def test_finds_nearly_all_of_the_nearest_and_ranks_them_exactly(metric):
    rows, queries = data()
    found, code = found_by(rows, queries, metric)
    values = similarities(rows, queries, metric)
    true = np.argsort(-values, axis=1)[:, :K]
    assert recall(found.indices, true) >= 0.95
    chosen = np.take_along_axis(values, np.asarray(found.indices), axis=1)
    np.testing.assert_allclose(found.similarities, chosen, rtol=1e-4, atol=1e-4)
    assert np.all(np.diff(found.similarities, axis=1) <= 0)
    by_code = quantized_search.short_lists(jnp.asarray(queries), code, K)
    assert recall(by_code, true) < 0.9, "the code alone would do"


def test_the_short_list_is_that_of_the_compressed_rows():
    """Distances to rows put together from their centers, one by one."""
    rows, queries = data()
    code = found_by(rows, queries)[1]
    codebooks, codes = np.asarray(code.codebooks, np.float64), np.asarray(code.codes)
    compressed = np.concatenate([codebooks[p][codes[:, p]] for p in range(4)], axis=1)
    distances = -similarities(compressed, queries, "sqeuclidean")
    listed = np.asarray(quantized_search.short_lists(jnp.asarray(queries), code, 100, block_size=512))
    worst = np.sort(distances, axis=1)[:, 99]
    assert np.all(np.take_along_axis(distances, listed, axis=1) <= worst[:, None] * (1 + 1e-4))
    assert all(len(set(row)) == 100 for row in listed.tolist())
    parts = rows.reshape(N, 4, 1, 4) - codebooks[None]
    nearest = (parts**2).sum(3)
    own = np.take_along_axis(nearest, codes[:, :, None].astype(int), axis=2)[:, :, 0]
    np.testing.assert_allclose(own, nearest.min(2), rtol=1e-3)


def test_compresses_and_finds_about_as_well_as_faiss():
    faiss = pytest.importorskip("faiss")
    rows, queries = data()
    peer = faiss.IndexPQ(D, 4, 5)
    peer.train(rows)
    peer.add(rows)
    code = found_by(rows, queries)[1]
    codebooks = np.asarray(code.codebooks)
    ours = np.concatenate([codebooks[p][np.asarray(code.codes)[:, p]] for p in range(4)], axis=1)
    theirs = peer.reconstruct_n(0, N)
    errors = [np.mean(np.sum((x - rows) ** 2, axis=1)) for x in (ours, theirs)]
    assert errors[0] < 1.05 * errors[1]
    true = np.argsort(-similarities(rows, queries, "sqeuclidean"), axis=1)[:, :K]
    lists = quantized_search.short_lists(jnp.asarray(queries), code, 50)
    assert recall(lists, true) > recall(peer.search(queries, 50)[1], true) - 0.05


def test_rows_that_cannot_be_measured_are_not_found_and_influence_nothing():
    rows, queries = data()
    gone = np.arange(N) % 3 == 0
    broken, where = rows.copy(), np.ones(N, bool)
    broken[gone] = np.where(np.arange(N)[gone, None] % 2, np.nan, 1e30)
    where[gone] = np.arange(N)[gone] % 2 == 0
    found, code = found_by(broken, queries, where=where)
    expected, _ = found_by(np.where(gone[:, None], 7, rows).astype(np.float32), queries, where=~gone)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(code.usable, ~gone)
    assert not np.any(gone[np.asarray(found.indices)])


def test_fewer_rows_than_asked_for_and_queries_that_are_not_finite():
    rows, queries = data()
    where, asked = np.zeros(N, bool), queries.copy()
    where[[3, 700, 1400]], asked[5] = True, np.inf
    found, _ = found_by(rows, asked, where=where)
    assert set(found.indices[0, :3].tolist()) == {3, 700, 1400}
    assert np.all(np.asarray(found.indices)[:, 3:] == -1) and np.all(np.asarray(found.indices)[5] == -1)
    assert np.all(np.asarray(found.similarities)[:, 3:] == -np.inf)


@jax.jit
def in_half_precision(rows):
    code = metrics.product_code(0, rows, num_parts=1, num_codes=16, max_iterations=8)
    return metrics.quantized_neighbors(rows, rows, code, 1, shortlist=8), code


def test_equal_rows_and_half_precision():
    rows = jnp.repeat(jnp.arange(16, dtype=jnp.bfloat16), 2).reshape(16, 2)
    found, code = in_half_precision(rows)
    assert found.indices[:, 0].tolist() == list(range(16)) and found.similarities.dtype == jnp.float32
    assert len(set(code.codes[:, 0].tolist())) == 16, "a center without a row moves"


def test_a_large_offset_costs_no_recall():
    rows, queries = data()
    found, _ = found_by(rows + 1000, queries + 1000)
    true = np.argsort(-similarities(rows, queries, "sqeuclidean"), axis=1)[:, :K]
    assert recall(found.indices, true) >= 0.95


def test_no_array_of_all_distances_is_formed():
    size, asked = 1 << 16, 512
    arrays: Any = [
        jax.ShapeDtypeStruct(s, d) for s, d in [((4, 16, 4), "float32"), ((size, 4), "uint8"), ((size,), "bool")]
    ]
    code = quantized_search.ProductCode(*arrays, metric="sqeuclidean")
    call = jax.jit(lambda q, c: quantized_search.short_lists(q, c, 50, block_size=4096))
    memory: Any = call.lower(jax.ShapeDtypeStruct((asked, 16), "float32"), code).compile().memory_analysis()
    assert memory.temp_size_in_bytes < size * asked * 4 / 8


ROWS = jnp.ones((8, 6))
CODE = functools.partial(metrics.product_code, 0, ROWS, num_parts=2, num_codes=4)
BAD = {
    "parts": (
        lambda: CODE(num_parts=4),
        ValueError,
        r"num_parts is 4, wanted a divisor of 6 \(the width of the rows\)",
    ),
    "codes": (lambda: CODE(num_codes=9), ValueError, r"num_codes is 9, wanted at most 8 \(the number of rows\)"),
    "bytes": (lambda: CODE(num_codes=257), ValueError, r"num_codes is 257, wanted at most 256 \(what a byte holds\)"),
    "training": (lambda: CODE(training_rows=3), ValueError, "num_codes is 4, wanted at most 3"),
    "metric": (lambda: CODE(metric="l1"), ValueError, "metric is 'l1'"),
    "dtype": (lambda: metrics.product_code(0, jnp.ones((8, 6), int)), TypeError, "rows has dtype int32"),
    "k": (lambda: ask(k=9), ValueError, r"k is 9, wanted at most 8 \(the number of references\)"),
    "list": (lambda: ask(k=4, shortlist=3), ValueError, r"shortlist is 3, wanted at least 4 \(k\)"),
    "no query": (lambda: ask(queries=ROWS[:0]), ValueError, r"queries has shape \[0, 6\]"),
    "width": (lambda: ask(queries=ROWS[:, :4]), ValueError, r"queries has shape \[8, 4\]"),
    "references": (lambda: ask(references=ROWS[:4]), ValueError, r"references has shape \[4, 6\], wanted \[8, 6\]"),
}


def ask(queries=ROWS, references=ROWS, **options):
    code = quantized_search.ProductCode(jnp.ones((2, 4, 3)), jnp.zeros((8, 2), jnp.uint8), jnp.ones(8, bool), "cosine")
    return metrics.quantized_neighbors(queries, references, code, **options)


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_block_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="block_size is 0, wanted at least 1"):
        quantized_search.encode_rows(jnp.zeros((1, 2, 3)), jnp.zeros((4, 3)), block_size=0)
