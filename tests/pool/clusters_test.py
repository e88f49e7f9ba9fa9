"""Clusters of a pool on disk: centers are those of batches on arrays, and the report is what brute force finds."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.pool import _clusters, _rounds, cluster_rows

K, SIZE = 4, 150
ARGUMENTS = {"batch_size": 64, "passes": 2, "seed": 3, "progress": False}


def pool():
    rng = np.random.default_rng(0)
    x = np.eye(K)[rng.integers(0, K, SIZE)] + 0.1 * rng.normal(size=(SIZE, K))
    x = (x * rng.uniform(0.5, 4, (SIZE, 1))).astype(np.float16)
    x[7], x[100] = np.nan, x[99]
    return x


@pytest.fixture(scope="module")
def found():
    return cluster_rows(pool(), K, **ARGUMENTS)


def test_centers_are_those_of_the_same_batches_on_arrays(found):
    x = pool().astype(np.float32)
    sample = np.sort(np.random.default_rng(3).choice(SIZE, 64, replace=False))
    state = selection.init_clusters(jnp.asarray(x[sample]), K, jax.random.key(3))
    update = jax.jit(lambda s, x, where: selection.update_clusters(s, x, where=where))
    for batch in list(range(3)) * 2:  # chunks of 8 rows: 19 of them, in batches of every third
        rows = [r for chunk in range(batch, 24, 3) for r in range(8 * chunk, min(8 * chunk + 8, SIZE))]
        padded = np.pad(x[rows], ((0, 64 - len(rows)), (0, 0)))
        state = update(state, padded, np.arange(64) < len(rows))
    np.testing.assert_allclose(found.centers, state.centers, rtol=1e-4, atol=1e-5)
    assert found.reseeded == int(state.reseeded) and found.dropped == 1


def test_rows_and_report_are_those_of_brute_force(found):
    x = pool().astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    distances = 1 - unit @ found.centers.T
    exists = np.arange(SIZE) != 7
    np.testing.assert_array_equal(found.indices[exists], distances[exists].argmin(1))
    np.testing.assert_allclose(found.distances[exists], distances[exists].min(1), atol=1e-5)
    assert found.indices[7] == -1 and np.isnan(found.distances[7])
    for k in range(K):
        mine = np.flatnonzero(found.indices == k)
        mine = mine[np.argsort(found.distances[mine], kind="stable")]
        assert found.examples[k].tolist() == [*mine[:5], *mine[::-1][:5]] and found.sizes[k] == len(mine)
        np.testing.assert_allclose(found.mean_distances[k], distances[mine, k].mean(), rtol=1e-3)
        shown = unit[found.examples[k]]
        np.testing.assert_allclose(found.closest[k], (1 - shown @ shown.T + 9 * np.eye(10)).min(), atol=1e-5)


def test_a_file_and_a_call_that_was_killed_give_the_same(found, tmp_path, monkeypatch):
    np.save(tmp_path / "pool.npy", pool())
    save, state = _rounds._save, tmp_path / "state"

    def stop(folder: Path, number: int, *rest):
        save(folder, number, *rest)
        if number == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(_rounds, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        cluster_rows(tmp_path / "pool.npy", K, state_folder=state, **ARGUMENTS)
    monkeypatch.setattr(_rounds, "_save", save)
    rounds = []
    monkeypatch.setattr(_clusters, "_update", lambda *args, do=_clusters._update: rounds.append(1) or do(*args))
    again = cluster_rows(tmp_path / "pool.npy", K, state_folder=state, **ARGUMENTS)
    assert len(rounds) == 2
    assert str(again.report) == str(found.report)
    assert str(found.report).startswith("1 of 150 rows dropped: 1 not finite\n  row ")
    for name, value in found._replace(report=again.report)._asdict().items():
        assert value is again.report or np.array_equal(getattr(again, name), value, equal_nan=True), name


def test_an_empty_cluster_moves_or_stays_empty():
    x = np.tile(np.float32([[1, 0]]), (100, 1))  # pyright: ignore
    x[67] = [0, 1]  # not in the sample that the start is drawn from
    found = cluster_rows(x, 3, batch_size=16, seed=0, progress=False)
    assert sorted(found.sizes.tolist()) == [0, 1, 99] and found.reseeded > 0 and found.indices[67] != found.indices[0]
    assert np.abs(found.centers - x[67]).max(1).min() < 1e-6
    empty = int(np.argmin(found.sizes))
    assert np.all(found.examples[empty] == -1) and np.isinf(found.closest[empty]) and found.mean_distances[empty] == 0


def test_bad_input_is_named():
    x = pool()
    with pytest.raises(ValueError, match=r"k is 151, wanted at most 150 \(the number of rows\)"):
        cluster_rows(x, 151, progress=False)
    with pytest.raises(ValueError, match="passes is 0, wanted at least 1"):
        cluster_rows(x, 2, passes=0, progress=False)
    with pytest.raises(ValueError, match="has no row of 9 that is finite"):
        cluster_rows(np.full((9, 4), np.nan, np.float16), 2, progress=False)
