"""Rows that sets take in turn against a loop in plain Python."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from tests.case import Case
from tests.selection import draws

QUERIES = jnp.asarray(np.random.default_rng(8).normal(size=(3, 2, 3)), jnp.float32)

CASES = {
    "keep_nearest_in_turn": Case(lambda: selection.keep_nearest_in_turn(5, QUERIES), draws.features),
    "keep_nearest_in_turn, quotas": Case(
        lambda: selection.keep_nearest_in_turn(9, QUERIES, quotas=jnp.array([1, 0, 6]), metric="cosine"), draws.features
    ),
}

N, S, Q, D, K = 60, 4, 3, 5, 20
in_turn = jax.jit(selection.nearest_in_turn, static_argnames=("k", "metric", "block_size"))


def plain(rows, queries, k, quotas=None, metric="euclidean"):
    """Indices, sets and distances of the rows taken, one turn at a time."""
    quotas = [k] * len(queries) if quotas is None else list(quotas)
    unit = (lambda v: v / max(np.linalg.norm(v), 1e-30)) if metric == "cosine" else (lambda v: v)
    rows, passed, taken = rows.astype(np.float64), set(), []
    while len(taken) < k and len(passed) < len(queries):
        for number, queries_of_set in enumerate(queries):
            best = None
            for row, vector in enumerate(rows):
                if row in [r for r, _, _ in taken] or not np.isfinite(vector).all():
                    continue
                for query in queries_of_set:
                    if np.isfinite(query).all():
                        distance = np.linalg.norm(unit(vector) - unit(query.astype(np.float64)))
                        if best is None or distance < best[0]:
                            best = distance, row
            if best is None or quotas[number] == 0:
                passed.add(number)
            elif len(taken) < k:
                quotas[number] -= 1
                taken.append((best[1], number, best[0]))
    missing = k - len(taken)
    indices, sets, distances = ([t[i] for t in taken] for i in range(3))
    return indices + [len(rows)] * missing, sets + [-1] * missing, distances + [np.inf] * missing


def drawn(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, D)).astype(np.float32), rng.normal(size=(S, Q, D)).astype(np.float32)


def assert_plain(found, expected):
    assert found.indices.tolist() == expected[0] and found.sets.tolist() == expected[1]
    np.testing.assert_allclose(found.distances, expected[2], rtol=1e-4)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("quotas", [None, (2, 0, 9, 4), (100, 1, 2, 100)])
def test_is_the_plain_loop(metric, quotas):
    limits = jnp.array([N] * S if quotas is None else quotas)
    for seed in range(3):
        rows, queries = drawn(seed)
        rows[seed], queries[1, 0] = np.nan, np.inf
        found = in_turn(jnp.asarray(rows), jnp.asarray(queries), k=K, quotas=limits, metric=metric, block_size=16)
        assert_plain(found, plain(rows, queries, K, quotas, metric))


def test_a_set_without_queries_passes_and_all_rows_can_be_taken():
    rows, queries = drawn(3)
    queries[2], rows[30:] = np.nan, np.nan
    found = in_turn(jnp.asarray(rows), jnp.asarray(queries), k=N, block_size=64)
    assert_plain(found, plain(rows, queries, N))
    assert 2 not in found.sets and sorted(found.indices.tolist()[:30]) == list(range(30))


def test_ties_go_to_the_lowest_index_and_then_to_the_first_set():
    rows = jnp.array([[1.0], [-1.0], [1.0], [5.0]])
    found = in_turn(rows, jnp.zeros((2, 1, 1)), k=4, block_size=2)
    assert found.indices.tolist() == [0, 1, 2, 3] and found.sets.tolist() == [0, 1, 0, 1]


def test_the_list_of_each_set_holds_no_more_than_k():
    rows, queries = jax.ShapeDtypeStruct((1 << 15, 8), "float32"), jax.ShapeDtypeStruct((64, 1, 8), "float32")
    call = jax.jit(functools.partial(selection.nearest_in_turn, k=10, block_size=1024))
    memory: Any = call.lower(rows, queries).compile().memory_analysis()
    assert memory.temp_size_in_bytes < (1 << 15) * 64 * 4 / 2


def test_quotas_of_64_bits_are_no_limits():
    quotas: Any = np.array([2**40, 3])
    tx = selection.keep_nearest_in_turn(3, jnp.zeros((2, 1, 1)), quotas=quotas)
    state: Any = tx.init(jnp.ones(4))
    assert state.quotas.tolist() == [2**31 - 1, 3]


def test_bad_input_is_named():
    rows, queries = jnp.ones((6, 2)), jnp.ones((3, 1, 2))
    with pytest.raises(ValueError, match=r"k is 7, wanted at most 6 \(the number of rows\)"):
        selection.nearest_in_turn(rows, queries, 7)
    with pytest.raises(ValueError, match=r"queries has shape \[0, 1, 2\]"):
        selection.nearest_in_turn(rows, queries[:0], 2)
    with pytest.raises(ValueError, match=r"queries has shape \[3, 1, 1\], wanted \[any size > 0, any size > 0, 2\]"):
        selection.nearest_in_turn(rows, queries[..., :1], 2)
    with pytest.raises(ValueError, match=r"quotas has shape \[2\], wanted \[3\]"):
        selection.keep_nearest_in_turn(2, queries, quotas=jnp.ones(2, int))
    with pytest.raises(TypeError, match="quotas has dtype float32"):
        selection.nearest_in_turn(rows, queries, 2, quotas=jnp.ones(3))
    with pytest.raises(ValueError, match="metric is 'l1'"):
        selection.keep_nearest_in_turn(2, queries, metric="l1")
