"""Every file of a choice from a pool under truncation, flipped bits, a full disk and a kill at each operation."""

import errno
import fcntl
import itertools
import os
import resource
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from minibatch_jax.pool import _centers, _files, _rounds
from tests.pool.select_test import CALLS, D, Killed, KilledAfter, N, assert_same, clusters, each_method, select

OPERATIONS = {
    "make the folder": (Path, "mkdir"),
    "open": (Path, "open"),
    "write": (np, "savez"),
    "sync": (os, "fsync"),
    "rename": (os, "replace"),
}


@pytest.fixture(autouse=True)
def more_rounds(monkeypatch):
    monkeypatch.setattr(_centers, "CANDIDATES", 4)


def stop_after(rounds, pool, method, folder):
    """Leave the state of a call that was killed after so many rounds."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(_rounds, "_save", KilledAfter(rounds))
        select(pool, method, state_folder=folder)


def newest(folder):
    return max(folder.glob("*.npz"))


def damages(content, seed=0):
    rng = np.random.default_rng(seed)
    for size in {0, 1, len(content) - 1, *rng.integers(len(content), size=6).tolist()}:
        yield f"cut to {size}", content[:size]
    for place in rng.integers(len(content), size=40).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        yield f"bit of byte {place}", bytes(flipped)
    yield "zeros", bytes(len(content))
    yield "another file", b"no state\n"


@each_method
def test_a_damaged_newest_round_costs_a_round(method, tmp_path):
    x = clusters()
    expected = select(x, method)
    stop_after(2, x, method, tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    last, told = newest(tmp_path), 0
    for name, content in damages(kept[last]):
        for path in tmp_path.glob("*.npz"):
            path.unlink()
        for path, old in kept.items():
            path.write_bytes(content if path == last else old)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert_same(select(x, method, state_folder=tmp_path), expected)
        for warning in caught:
            assert f"{last} is damaged" in str(warning.message) and "from round 1" in str(warning.message), name
        told += len(caught)
    assert told > 20, "nearly all bits of a file count"


def test_a_state_without_an_intact_round_is_named(tmp_path):
    stop_after(2, clusters(), "k_center", tmp_path)
    for path in tmp_path.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"no round that is intact: .*round000001.npz is damaged .*Delete the folder"):
        select(clusters(), "k_center", state_folder=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 2


@each_method
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("after", [0, 2])
def test_a_full_disk_at_each_operation_leaves_nothing_half_written(method, operation, after, tmp_path, monkeypatch):
    x, folder = clusters(), tmp_path / "state"
    expected = select(x, method)
    where, name = OPERATIONS[operation]
    real, calls = getattr(where, name), 0

    def full(*args, **options):
        nonlocal calls
        calls += 1
        if calls <= (after if operation != "make the folder" else 0):
            return real(*args, **options)
        if operation == "write":
            args[0].write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="state_folder .*/state.*No space.*free") as raised,
    ):
        patch.setattr(where, name, full)
        select(x, method, state_folder=folder)
    assert raised.value.errno == errno.ENOSPC
    assert not list(tmp_path.rglob("*.partial"))
    assert_same(select(x, method, state_folder=folder), expected)


def test_a_full_disk_in_the_midst_of_a_real_write(tmp_path):
    """The limit on the size of a file makes the write itself fail, as a full disk does."""
    x, (soft, hard) = clusters(), resource.getrlimit(resource.RLIMIT_FSIZE)
    expected = select(x, "sift")
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match=r"could not write round 1 on process 0 .*nothing half-written is kept"):
            select(x, "sift", state_folder=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob("*.partial"))
    assert_same(select(x, "sift", state_folder=tmp_path), expected)


@each_method
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_at_each_operation_goes_on(method, operation, tmp_path, monkeypatch):
    x, folder = clusters(), tmp_path / "state"
    where, name = OPERATIONS[operation]
    real, calls = getattr(where, name), 0

    def die(*args, **options):
        nonlocal calls
        calls += 1
        if operation == "write" and calls == 3:
            args[0].write(b"half")
        if calls == (1 if operation == "make the folder" else 3):
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(where, name, die)
        select(x, method, state_folder=folder)
    assert_same(select(x, method, state_folder=folder), select(x, method))
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("row", [1, 150, N - 2])
def test_a_pool_with_other_rows_is_another_pool(row, tmp_path):
    x = clusters()
    for pool in (x, tmp_path / "pool.npy"):
        folder = tmp_path / type(pool).__name__
        np.save(tmp_path / "pool.npy", x)
        stop_after(2, pool, "k_center", folder)
        other = x.copy()
        other[row] += 1
        np.save(tmp_path / "pool.npy", other)
        with pytest.raises(ValueError, match=r"holds another call, .*digest of the pool.*Delete the folder or choose"):
            select(other if pool is x else pool, "k_center", state_folder=folder)


def test_a_damaged_pool_is_named(tmp_path):
    path = tmp_path / "pool.npy"
    np.save(path, clusters())
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    sizes = [0, 1, 50, 127, 128, len(content) - 1, len(content) - 4 * D, *rng.integers(len(content), size=20).tolist()]
    for bad in [*(content[:size] for size in sizes), content + b"more", b"text\n" * 99, content[:6] + b"\xff" * 500]:
        path.write_bytes(bad)
        with pytest.raises(
            ValueError, match=rf"pool '{path}' .*(cannot be read|by its header).*with np\.save"
        ) as raised:
            select(path, "k_center")
        assert "pickle" not in str(raised.value)
    np.savez(tmp_path / "pool.npz", clusters())
    with pytest.raises(ValueError, match="pool .*pool.npz' cannot be read"):
        select(tmp_path / "pool.npz", "k_center")
    with pytest.raises(FileNotFoundError, match=r"none\.npy"):
        select(tmp_path / "none.npy", "k_center")
    for place in range(128):  # a header with a flipped bit is refused, or still means the same file
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            found = _files.NpyFile(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert found.shape[0] * found.shape[1] == N * D


KINDS = {  # how a pool on disk is given, and the class that reads it
    "path": (lambda path: path, _files.FileRows),
    "map": (lambda path: np.load(path, mmap_mode="r"), _files.FileRows),
    "writable map": (lambda path: np.load(path, mmap_mode="r+"), _files.FileRows),
    "array of a map": (lambda path: np.asarray(np.load(path, mmap_mode="r")), _files.FileRows),
    "rows of a map": (lambda path: np.load(path, mmap_mode="r")[7:], _files.FileRows),
    "columns of a map": (lambda path: np.load(path, mmap_mode="r")[:, 1:], _files.MappedRows),
    "private map": (lambda path: np.load(path, mmap_mode="c"), _files.MappedRows),
}
CHANGES = {
    "cut": lambda path, size: os.truncate(path, size - 100 * 4 * D),
    "cut to no row": lambda path, size: os.truncate(path, 128),
    "cut by a byte": lambda path, size: os.truncate(path, size - 1),
    "written": lambda path, size: os.utime(path, ns=(1, 1)),
    "replaced": lambda path, size: os.replace(shutil.copy2(path, path.with_suffix(".copy")), path),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_on_disk_gives_what_its_array_gives(kind, tmp_path):
    np.save(path := tmp_path / "pool.npy", clusters())
    pool = KINDS[kind][0](path)
    expected = np.array(pool) if kind != "path" else clusters()
    rows = [0, 5, 90, 3, 60]
    if kind != "path":
        np.testing.assert_array_equal(_files.rows_of_array(pool)[10:200], expected[10:200])
        np.testing.assert_array_equal(_files.rows_of_array(pool)[np.array(rows)], expected[rows])
    assert_same(select(pool, "k_center"), select(expected, "k_center"))


@each_method
@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_that_changes_while_it_is_read_is_named(method, kind, tmp_path, monkeypatch):
    """At every read: what is missing is neither made up nor taken for rows that are not finite, nor kills it."""
    give, reader = KINDS[kind]
    path, reads, at, change = tmp_path / "pool.npy", 0, 0, CHANGES["cut"]
    read = reader.__getitem__
    changes = {name: change for name, change in CHANGES.items() if reader is _files.FileRows or "cut" in name}
    if method == "sift" and "columns" in kind:
        monkeypatch.setitem(CALLS, "sift", {"queries": CALLS["sift"]["queries"][:, 1:]})

    def change_and_read(self, rows):
        nonlocal reads
        reads += 1
        if reads == at:
            change(path, path.stat().st_size)
        return read(self, rows)

    monkeypatch.setattr(reader, "__getitem__", change_and_read)
    for change, at in itertools.product(changes.values(), (2, 9)):  # noqa: B007
        np.save(path, clusters())
        pool, reads = give(path), 0
        with pytest.raises(ValueError, match=rf"pool '{path}' was written to while its rows were read: it had \d+ by"):
            select(pool, method)


@pytest.mark.parametrize("kind", ["path", "map", "columns of a map"])
@pytest.mark.parametrize("between", ["rounds", "blocks"])
def test_a_pool_that_was_cut_and_is_brought_back_goes_on(between, kind, tmp_path, monkeypatch):
    path, folder = tmp_path / "pool.npy", tmp_path / "state"
    np.save(path, clusters())
    content = path.read_bytes()
    give, reader = KINDS[kind]
    expected, pool = select(give(path), "k_center"), give(path)
    where, name = (_rounds, "_save") if between == "rounds" else (reader, "__getitem__")
    real, calls = getattr(where, name), 0

    def then_cut(*args):
        nonlocal calls
        calls += 1
        found = real(*args)
        if calls == (2 if between == "rounds" else 27):
            os.truncate(path, len(content) // 2)
        return found

    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"pool\.npy' was written to while .* again"):
        patch.setattr(where, name, then_cut)
        select(pool, "k_center", state_folder=folder)
    if kind != "path":
        with pytest.raises(ValueError, match=r"pool '.*' has \d+ bytes, but its memory map was made of"):
            select(pool, "k_center", state_folder=folder)
    assert newest(folder).name.endswith("2.npz" if between == "rounds" else "1.npz")
    path.write_bytes(content)
    assert_same(select(give(path), "k_center", state_folder=folder), expected)


@pytest.mark.parametrize("kind", ["path", "map"])
def test_a_pool_that_is_gone_or_cannot_be_read_is_named(kind, tmp_path, monkeypatch):
    path = tmp_path / "pool.npy"
    np.save(path, clusters())
    pool, fill, calls = KINDS[kind][0](path), _files.FileRows._fill, 0

    def broken(*args):
        nonlocal calls
        calls += 1
        if calls == 7:
            raise OSError(errno.EIO, "Input/output error")
        fill(*args)

    with monkeypatch.context() as patch, pytest.raises(OSError, match=rf"'{path}' can no .*\(Input/output error\)"):
        patch.setattr(_files.FileRows, "_fill", broken)
        select(pool, "k_center")
    read = _files.FileRows.__getitem__

    def gone(self, rows):
        path.unlink(missing_ok=True)
        return read(self, rows)

    if kind == "path":
        monkeypatch.setattr(_files.FileRows, "__getitem__", gone)
        with pytest.raises(FileNotFoundError, match=rf"pool '{path}' can no longer be read .*Make the call again"):
            select(pool, "k_center")
    else:  # the map still has it
        expected = select(np.array(pool), "k_center")
        path.unlink()
        assert_same(select(pool, "k_center"), expected)
        np.save(path, clusters(1)[:9])
        assert_same(select(pool, "k_center"), expected)


def test_a_state_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"state_folder .*/file' is a file, wanted a folder"):
        select(clusters(), "sift", state_folder=tmp_path / "file")


@each_method
def test_two_jobs_do_not_share_a_folder(method, tmp_path, monkeypatch):
    x, save, refused = clusters(), _rounds._save, 0

    def save_while_another_job_comes(*args):
        nonlocal refused
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(
            RuntimeError,
            match=rf"state_folder '{tmp_path}' is in use by another job, process {os.getpid()} on .*: wait until",
        ):
            select(x, method, state_folder=tmp_path)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        refused += 1
        save(*args)

    monkeypatch.setattr(_rounds, "_save", save_while_another_job_comes)
    assert_same(select(x, method, state_folder=tmp_path), select(x, method))
    assert refused > 1
    assert_same(select(x, method, state_folder=tmp_path), select(x, method))  # the lock is free again


def test_where_nothing_can_be_written_or_locked(tmp_path, monkeypatch):
    expected = select(clusters(), "k_center", state_folder=tmp_path)

    def error(number):
        def raise_it(*args):
            raise OSError(number, os.strerror(number))

        return raise_it

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", error(errno.EROFS))
        assert_same(select(clusters(), "k_center", state_folder=tmp_path), expected)
        patch.setattr(os, "open", error(errno.ENOSPC))
        with pytest.raises(OSError, match=r"state_folder .* cannot be made .*No space left .*wanted a folder to write"):
            select(clusters(), "k_center", state_folder=tmp_path)
    monkeypatch.setattr(fcntl, "flock", error(errno.ENOLCK))
    with pytest.warns(RuntimeWarning, match=r"state_folder .* cannot be locked .*see to it that no other job uses it"):
        assert_same(select(clusters(), "k_center", state_folder=tmp_path), expected)


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_rows_that_do_not_count_are_reported(method, value):
    x = clusters().astype(np.float64)
    x[[9, 40, 41], [0, 1, 2]] = value
    with np.errstate(over="ignore"):
        chosen = select(x, method)
    assert chosen.dropped == 5 and not {5, 9, 40, 41, 170} & set(chosen.indices.tolist())


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_queries_that_do_not_count_are_reported(value):
    rng, queries = np.random.default_rng(0), np.asarray(CALLS["sift"]["queries"], np.float64)
    for dropped in (1, 3):
        places = np.sort(rng.integers(len(queries) + 1, size=dropped))
        given = np.insert(queries, places, rng.normal(size=(dropped, D)), axis=0)
        given[places + np.arange(dropped), rng.integers(D, size=dropped)] = value
        chosen = select(clusters(), "sift", queries=given)
        assert chosen.dropped_queries == dropped
        assert_same(chosen._replace(dropped_queries=0), select(clusters(), "sift"))
    with pytest.raises(ValueError, match="queries has no row of 2 that is finite in float32, wanted one or more"):
        select(clusters(), "sift", queries=np.full((2, D), value))


@each_method
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_a_pool_without_a_finite_row_is_refused(method, value, tmp_path):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match=rf"pool .* has no row of {N} that is finite in"):
        select(np.full((N, D), value), method, state_folder=tmp_path)
