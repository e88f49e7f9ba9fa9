"""What a pool on disk gives is what the functions on arrays give; killed and resumed, or in parts, it is the same."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax import selection
from minibatch_jax.pool import _centers, _rounds, open_pool, select_from_pool
from minibatch_jax.pool._rows import Rows

N, D, K = 300, 6, 12
CALLS = {
    "facility_location": {"rows_per_part": 64},
    "k_center": {},
    "sift": {"queries": np.random.default_rng(5).normal(size=(3, D)).astype(np.float32)},
}
each_method = pytest.mark.parametrize("method", CALLS)


def clusters(seed=0):
    rng = np.random.default_rng(seed)
    x = 3 * rng.normal(size=(20, D))[rng.integers(20, size=N)] + rng.normal(size=(N, D))
    x[[5, 170]] = np.nan
    return x.astype(np.float32)


def select(pool, method, **changes):
    return select_from_pool(pool, K, method=method, **{"block_size": 64, "progress": False} | CALLS[method] | changes)


def assert_same(actual, expected):
    for name, found in actual._asdict().items():
        if name == "report":  # the name of the shard may be another
            np.testing.assert_array_equal(found[1:5], expected.report[1:5])
        else:
            np.testing.assert_array_equal(found, getattr(expected, name))


def finite(x):
    return np.isfinite(x).all(1)


def nearest_counts(x, indices):
    d = ((x[finite(x)][:, None] - x[None, indices]) ** 2).sum(-1)
    return np.bincount(d.argmin(1), minlength=len(indices)), d.min(1)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("candidates", [3, 4096])
def test_k_center_is_that_of_the_array(metric, candidates, monkeypatch):
    """Also where few rows are read at a time, so that most picks wait for a pass."""
    monkeypatch.setattr(_centers, "CANDIDATES", candidates)
    for seed in range(2):
        x = clusters(seed)
        chosen = select(x, "k_center", metric=metric)
        exact = jax.jit(lambda x: selection.k_center(x, K, metric=metric))(jnp.asarray(x))
        assert chosen.indices.tolist() == exact.indices.tolist()
        np.testing.assert_allclose(chosen.values, exact.radii, rtol=1e-4)
        np.testing.assert_allclose(chosen.cost, exact.radius, rtol=1e-4)
        np.testing.assert_array_equal(chosen.weights, np.bincount(exact.owners[finite(x)], minlength=K))


def test_sift_is_that_of_the_array():
    x, queries = clusters(), CALLS["sift"]["queries"]
    for noise in (0.01, 1.0):
        chosen = select(x, "sift", noise=noise)
        exact = jax.jit(lambda x, q, n=noise: selection.sift_indices(x, q, K, noise=n))(x, queries)
        assert chosen.indices.tolist() == exact.indices.tolist()
        np.testing.assert_allclose(chosen.values, exact.variances, rtol=1e-4)
        assert chosen.cost == chosen.values[-1] and chosen.weights.tolist() == [1] * K


@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean", "cosine"])
def test_facility_location_in_one_part_is_the_greedy(metric):
    x = clusters()
    chosen = select(x, "facility_location", metric=metric, rows_per_part=512)
    exact = jax.jit(lambda x: selection.facility_location_from_features(x, K, metric=metric).indices)(x)
    assert set(chosen.indices.tolist()) == set(exact.tolist())
    space = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    counts, squares = nearest_counts(space, chosen.indices)
    np.testing.assert_array_equal(chosen.weights, counts)
    np.testing.assert_allclose(chosen.cost, np.mean(squares**0.5 if metric == "euclidean" else squares), rtol=1e-4)


def test_facility_location_in_parts_costs_little():
    """Most of the way from random rows to the greedy on all rows, and within a tenth of the latter."""
    rng, shares = np.random.default_rng(0), []
    for seed in range(3):
        x = clusters(seed)
        cost = select(x, "facility_location").cost
        exact = nearest_counts(x, selection.facility_location_from_features(jnp.asarray(x), K).indices)[1].mean()
        rows = np.flatnonzero(finite(x))
        random = np.mean([nearest_counts(x, rng.choice(rows, K, replace=False))[1].mean() for _ in range(20)])
        shares.append((random - cost) / (random - exact))
    assert min(shares) > 0.7 and np.mean(shares) > 0.8, shares


@pytest.mark.parametrize("rows_per_part", [64, 512])
@pytest.mark.parametrize("metric", ["sqeuclidean", "euclidean"])
def test_a_far_row_blurs_no_medoid(metric, rows_per_part):
    """All clusters have a medoid, and so has the far row."""
    groups = np.arange(N) % (K - 1)
    rng = np.random.default_rng(3)
    x = np.float32(5 * rng.normal(size=(K - 1, D))[groups] + 0.1 * rng.normal(size=(N, D)))
    x[7] = 1e5
    chosen = select(x, "facility_location", metric=metric, rows_per_part=rows_per_part)
    assert 7 in chosen.indices and set(groups[chosen.indices[chosen.indices != 7]]) == set(range(K - 1))
    assert chosen.cost < 1 and chosen.dropped == 0


@each_method
def test_a_row_that_cannot_be_measured_is_dropped(method):
    x = clusters()
    expected = select(x, method)
    x[5] = 1e21
    chosen = select(x, method)
    if method == "sift":  # it compares directions
        assert chosen.dropped == 1
    else:
        assert_same(chosen._replace(report=expected.report), expected)
        assert chosen.dropped == 2 and "1 not finite, 1 too large for float32\n" in str(chosen.report)


@each_method
def test_a_file_in_half_precision_gives_what_its_array_gives(method, tmp_path):
    x = clusters().astype(np.float16)
    np.save(tmp_path / "pool.npy", x)
    chosen = select(tmp_path / "pool.npy", method)
    assert_same(chosen, select(x.astype(np.float32), method))
    assert len(set(chosen.indices.tolist()) & {5, 170}) == 0 and chosen.dropped == 2
    if method == "facility_location":
        assert chosen.weights.sum() == finite(x).sum()


def test_a_file_by_columns_is_refused(tmp_path):
    np.save(tmp_path / "pool.npy", np.asfortranarray(clusters()))
    with pytest.raises(ValueError, match="is in Fortran order"):
        select(tmp_path / "pool.npy", "k_center")


def test_rows_of_a_file_are_read_as_they_are(tmp_path):
    x = clusters().astype(np.float16)
    np.save(tmp_path / "pool.npy", x)
    rows = Rows(open_pool(tmp_path / "pool.npy"), 64)
    np.testing.assert_array_equal(np.concatenate([rows.chunk(i) for i in rows.own])[:N], x)
    order = np.random.default_rng(0).permutation(N)[:50]
    np.testing.assert_array_equal(rows.at(order), x[order].astype(np.float32))


class Killed(BaseException):
    """Passes every `except Exception`, as nothing of a killed process runs."""


class KilledAfter:
    """Saves rounds, and is killed after so many."""

    def __init__(self, rounds):
        self.save, self.rounds, self.count = _rounds._save, rounds, 0

    def __call__(self, *args):
        self.save(*args)
        self.count += 1
        if self.count == self.rounds:
            raise Killed


@each_method
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_stopped_call_goes_on_to_the_same_result(method, rounds, tmp_path, monkeypatch):
    x, saves = clusters(), KilledAfter(rounds)
    monkeypatch.setattr(_centers, "CANDIDATES", 4)
    monkeypatch.setattr(_rounds, "_save", saves)
    with pytest.raises(Killed):
        select(x, method, state_folder=tmp_path)
    resumed = select(x, method, state_folder=tmp_path)
    total = saves.count
    assert_same(resumed, select(x, method))
    assert_same(select(x, method, state_folder=tmp_path), resumed)
    assert saves.count == total > rounds, "a finished call makes no further round"
    assert len(list(tmp_path.glob("*.npz"))) <= 2


def test_a_killed_process_goes_on(tmp_path):
    """A real kill in the midst of a run, by the signal that nothing can catch."""
    np.save(tmp_path / "pool.npy", clusters())
    call = (
        "import sys, time; from minibatch_jax.pool import _sift, select_from_pool; import numpy as np\n"
        "best = _sift._best\n_sift._best = lambda *a: (time.sleep(0.05), best(*a))[1]\n"
        "folder = sys.argv[1]\n"
        f"chosen = select_from_pool(folder + '/pool.npy', 40, method='sift', queries=np.ones((1, {D}), np.float32), "
        "block_size=64, progress=False, state_folder=folder + '/s')\n"
        "np.save(folder + '/out.npy', chosen.indices)"
    )
    command = [sys.executable, "-c", call, str(tmp_path)]
    victim = subprocess.Popen(command)
    while victim.poll() is None and not list(tmp_path.glob("s/*round000003.npz")):
        time.sleep(0.02)
    assert victim.poll() is None
    with pytest.raises(RuntimeError, match=f"in use by another job, process {victim.pid} on {socket.gethostname()}"):
        select(tmp_path / "pool.npy", "k_center", state_folder=tmp_path / "s")
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert not (tmp_path / "out.npy").exists()
    subprocess.run(command, check=True)
    expected = select_from_pool(
        tmp_path / "pool.npy", 40, method="sift", queries=np.ones((1, D), np.float32), block_size=64, progress=False
    )
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected.indices)


def test_state_of_another_call_is_refused(tmp_path):
    select(clusters(), "k_center", state_folder=tmp_path)
    with pytest.raises(ValueError, match=r"state_folder .* holds another call, \(saved, given\) = {'unit'"):
        select(clusters(), "k_center", state_folder=tmp_path, metric="cosine")
    with pytest.raises(
        ValueError, match=r"state_folder .* holds another call, \(saved, given\) = {'digest of the pool'"
    ):
        select(clusters(1), "k_center", state_folder=tmp_path)


def test_queries_and_counts_of_any_kind_can_be_resumed(tmp_path):
    """Queries that are not finite do not count but are reported, and a count may be a numpy integer."""
    queries = np.append(CALLS["sift"]["queries"], np.full((1, D), np.nan, np.float32), 0)
    options = {"method": "sift", "queries": queries, "progress": False, "state_folder": tmp_path}
    first = select_from_pool(clusters(), np.int64(K), block_size=np.int64(64), **options)
    assert first.dropped_queries == 1
    assert_same(first._replace(dropped_queries=0), select(clusters(), "sift"))
    assert_same(select_from_pool(clusters(), K, block_size=64, **options), first)
    with pytest.raises(ValueError, match=r"state_folder .* = {'queries'"):
        select_from_pool(clusters(), K, block_size=64, **options | {"queries": queries + 1})


@pytest.mark.parametrize("method", ["k_center", "sift"])
def test_products_are_of_full_precision(method, monkeypatch):
    """On a GPU or TPU the default precision is about 3 digits, too few for the differences that decide."""
    seen, matmul = [], jnp.matmul

    def record(*args, **options):
        seen.append(options.get("precision"))
        return matmul(*args, **options)

    monkeypatch.setattr(jnp, "matmul", record)
    select(np.ones((41, D), np.float32), method, block_size=41)
    assert seen and set(seen) == {"highest"}


@each_method
def test_fewer_rows_than_asked_for(method):
    x = np.where(np.arange(N)[:, None] % 100 == 0, clusters(), np.nan).astype(np.float32)
    chosen = select(x, method)
    expected = {0, 100, 200} if method == "sift" else {0, 100, 200, N}
    assert set(chosen.indices.tolist()) == expected and np.isfinite(chosen.cost)
    assert chosen.weights.sum() == (K if method == "sift" else 3)
    assert chosen.dropped == N - 3
    for parts in ({"rows_per_part": 64}, {"rows_per_part": 24}) if method == "facility_location" else ({},):
        with pytest.raises(ValueError, match=rf"pool of shape \[{N}, {D}\] has no row of {N} that is finite"):
            select(np.full((N, D), np.nan, np.float32), method, **parts)


def test_progress_bar(capsys):
    select(clusters(), "k_center", progress=True)
    assert "select_from_pool, k_center" in capsys.readouterr().out


BAD = {
    "method": ({"method": "random"}, ValueError, "method is 'random', wanted one of 'facility_location'"),
    "metric": ({"metric": "l1"}, ValueError, "metric is 'l1'"),
    "k": ({"k": N + 1}, ValueError, f"k is {N + 1}, wanted at most {N}"),
    "parts": ({"rows_per_part": 20}, ValueError, "rows_per_part is 20, wanted at least 2 k = 24"),
    "not of the method": (
        {"noise": 0.1},
        ValueError,
        "noise is given, but method 'facility_location' takes metric, rows_per_part, seed; noise is for 'sift'",
    ),
    "queries": ({"method": "sift"}, ValueError, r"queries is None, wanted \[Q, D\]"),
    "width": ({"method": "sift", "queries": np.ones((2, 3))}, ValueError, r"queries has shape \[2, 3\]"),
    "no query": (
        {"method": "sift", "queries": np.full((2, D), np.nan, np.float32)},
        ValueError,
        "queries has no row of 2 that is finite",
    ),
    "dtype": ({"pool": np.ones((4, 2), int)}, TypeError, "pool has dtype int64"),
    "list": ({"pool": [[1.0], [2.0]], "k": 1}, TypeError, r"pool\[0\] is a list, wanted a path, a list of paths, an"),
    "bytes": ({"pool": np.ones((4, 2), ">f4"), "k": 1}, TypeError, "pool has dtype >f4"),
    "noise": ({"method": "sift", "queries": np.ones((2, D)), "noise": 0.0}, ValueError, "noise is 0.0"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(changes, error, message):
    arguments = {"pool": clusters(), "k": K, "progress": False} | changes
    with pytest.raises(error, match=message):
        select_from_pool(arguments.pop("pool"), arguments.pop("k"), **arguments)
