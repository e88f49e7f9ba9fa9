"""The graphs against brute force: nearest rows, buckets in dicts, shared prefixes pair by pair."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.selection import instance_graphs

N, D = 90, 6
distance = jax.jit(selection.distance_graph, static_argnames=("k", "batch_size", "threshold"))
hashed = jax.jit(selection.hash_graph, static_argnames=("k", "num_bits"))


@functools.cache
def table():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(N, D)) * np.arange(1, D + 1) + np.arange(D)
    rows[4] = np.nan
    return rows.astype(np.float32), rng.integers(3, size=N).astype(np.int32)


@functools.cache
def unit():
    """Rows of length 1 with standardized columns, in float64; NaN in the row that is not finite."""
    rows = table()[0].astype(np.float64)
    rows = (rows - np.nanmean(rows, axis=0)) / np.nanstd(rows, axis=0)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def lists(graph):
    return [set(row[row < N].tolist()) for row in np.asarray(graph.neighbors)]


def test_one_batch_gives_the_nearest_neighbors():
    rows, labels = table()
    graph = distance(0, rows, labels, k=7, batch_size=N)
    cosines = unit() @ unit().T
    np.fill_diagonal(cosines, -np.inf)
    expected = np.argsort(-np.nan_to_num(cosines, nan=-np.inf), axis=1)[:, :7]
    exists = np.arange(N) != 4
    np.testing.assert_array_equal(np.asarray(graph.neighbors)[exists], expected[exists])
    near = np.take_along_axis(cosines, expected, axis=1)
    np.testing.assert_allclose(np.asarray(graph.weights)[exists], near[exists], atol=1e-5)
    assert lists(graph)[4] == set() and not any(4 in row for row in lists(graph))
    some = distance(0, rows, labels, k=7, batch_size=N, threshold=0.5)
    kept = near[exists] >= 0.5
    np.testing.assert_array_equal(np.asarray(some.neighbors)[exists], np.where(kept, expected[exists], N))


def test_batches_are_stratified_and_neighbors_stay_inside():
    """With as many neighbors as a batch has other rows, the lists are the batches."""
    rows, labels = (x[np.arange(N) != 4] for x in table())
    rows, labels = np.append(rows, rows[:1], 0), np.append(labels, 0)
    graph = distance(1, rows, labels, k=29, batch_size=30)
    batches = {frozenset(row | {i}) for i, row in enumerate(lists(graph))}
    assert sorted(map(len, batches)) == [30] * 3
    for batch in batches:
        counts = np.bincount(labels[list(batch)], minlength=3)
        np.testing.assert_array_less(np.abs(counts - np.bincount(labels) / 3), 1 + 1e-9)
    assert lists(graph) != lists(distance(2, rows, labels, k=29, batch_size=30))


def test_rows_of_one_hash_meet():
    """Against a dict of buckets, wherever a bucket has at most k other rows."""
    rows, _ = table()
    code = np.asarray(instance_graphs._codes(jax.random.key(3), jnp.asarray(unit(), jnp.float32), 6))
    buckets = {}
    for row in np.flatnonzero(np.arange(N) != 4):
        buckets.setdefault(int(code[row]), []).append(int(row))
    graph = hashed(3, rows, k=8, num_bits=6)
    found, largest = lists(graph), max(map(len, buckets.values()))
    assert largest > 3
    for bucket in buckets.values():
        for row in bucket:
            others = set(bucket) - {row}
            assert found[row] == others if len(bucket) <= 9 else found[row] < others and len(found[row]) >= 8
    assert found[4] == set()
    listed = np.asarray(graph.neighbors)
    cosines = np.einsum("nd,nkd->nk", unit(), unit()[np.minimum(listed, N - 1)])
    np.testing.assert_allclose(graph.weights, np.where(listed < N, cosines, 0), atol=1e-5)


def test_levels_weigh_shared_prefixes_and_repeats_are_left_out():
    rows, _ = table()
    made = jax.jit(functools.partial(selection.multilevel_hash_graph, k=4, levels=(1, 3, 6)))(3, rows)
    code = np.asarray(instance_graphs._codes(jax.random.key(3), jnp.asarray(unit(), jnp.float32), 6)).astype(int)
    listed, weights = np.asarray(made.neighbors), np.asarray(made.weights)
    assert np.any(listed < N)
    for row in range(N):
        there = listed[row][listed[row] < N]
        assert len(set(there)) == len(there) and row not in there
        for other, weight in zip(listed[row], weights[row]):
            shared = [(code[row] >> s) == (code[other] >> s) for s in (5, 3, 0)] if other < N else []
            assert weight == pytest.approx(sum(n * s for n, s in zip((1, 2, 3), shared)) / 6)


def test_views_weigh_how_many_agree():
    rows, _ = table()
    made = jax.jit(functools.partial(selection.multiview_hash_graph, k=4, num_views=3, num_bits=3))(5, rows)
    listed, weights = np.asarray(made.neighbors), np.asarray(made.weights)
    assert set(np.round(3 * weights[listed < N])) == {1, 2, 3} and np.all(weights[listed == N] == 0)
    assert all(len(row[row < N]) == len(set(row[row < N])) for row in listed)
    pairs = {(i, int(j)): w for i in range(N) for j, w in zip(listed[i], weights[i]) if j < N}
    both = [(w, pairs[j, i]) for (i, j), w in pairs.items() if (j, i) in pairs]
    assert len(both) > 50 and all(a == b for a, b in both)


def test_bad_input_is_named():
    rows, labels = jnp.ones((6, 2)), jnp.zeros(6, jnp.int32)
    with pytest.raises(ValueError, match=r"k is 6, wanted at most 5 \(the number of other rows\)"):
        selection.distance_graph(0, rows, labels, 6)
    with pytest.raises(ValueError, match=r"k is 3, wanted at most 2 \(the number of other rows of a batch\)"):
        selection.distance_graph(0, rows, labels, 3, batch_size=3)
    with pytest.raises(ValueError, match=r"num_bits is 33, wanted at most 32 \(the bits of a hash\)"):
        selection.hash_graph(0, rows, 2, num_bits=33)
    with pytest.raises(ValueError, match=r"levels is \(8, 4\), wanted numbers of bits that ascend"):
        selection.multilevel_hash_graph(0, rows, 2, levels=(8, 4))
    with pytest.raises(TypeError, match="features has dtype int32"):
        selection.multiview_hash_graph(0, rows.astype(jnp.int32), 2)


def test_a_constant_column_becomes_zero_and_a_large_one_counts():
    x = np.random.default_rng(0).normal(size=(1000, 3)) * np.array([1.0, 1.0, 7e17])
    x[:, 0], x[7, 0] = 0.1, np.nan
    found, exists = jax.jit(instance_graphs.standardized)(x.astype(np.float32))
    kept = np.delete(x, 7, axis=0)
    scaled = (kept - kept.mean(0)) / np.append(1, kept.std(0)[1:])
    expected = np.append(np.zeros((999, 1)), scaled[:, 1:], axis=1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(np.delete(found, 7, axis=0), expected, atol=1e-5)
    assert not exists[7] and not np.any(found[7])


def test_batches_may_be_smaller_than_asked_for():
    with pytest.raises(ValueError, match=r"k is 10, wanted at most 6 \(the number of other rows of a batch\)"):
        selection.distance_graph(0, jnp.ones((14, 2)), jnp.zeros(14, int), 10, batch_size=12)
    with pytest.raises(ValueError, match=r"levels is \(\), wanted numbers of bits that ascend"):
        selection.multilevel_hash_graph(0, jnp.ones((14, 2)), 2, levels=())
