"""Every file of a choice from a pool under truncation, flipped bits, a full disk and a kill at each operation."""

import errno
import os
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest

from minibatch_jax.pool import _centers, _rounds, _rows
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
        for path in tmp_path.iterdir():
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
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"no round that is intact: .*round000001.npz is damaged .*Delete the folder"):
        select(clusters(), "k_center", state_folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


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
    assert not list(tmp_path.iterdir())
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
            found = _rows.NpyFile(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert found.shape[0] * found.shape[1] == N * D


@each_method
@pytest.mark.parametrize("change", ["cut", "cut to no row", "written"])
def test_a_pool_that_changes_while_it_is_read_is_named(method, change, tmp_path, monkeypatch):
    """At every read: what is missing is neither made up nor taken for rows that are not finite."""
    x, path = clusters(), tmp_path / "pool.npy"
    read, reads, at = _rows.NpyFile.__getitem__, 0, 0

    def shrink_and_read(self, rows):
        nonlocal reads
        reads += 1
        if reads == at:
            size = path.stat().st_size
            os.truncate(path, {"cut": size - 100 * 4 * D, "cut to no row": 128, "written": size}[change])
            if change == "written":
                path.write_bytes(path.read_bytes())
                os.utime(path, ns=(1, at))
        return read(self, rows)

    monkeypatch.setattr(_rows.NpyFile, "__getitem__", shrink_and_read)
    for number in (1, 2, 5, 9):
        at = number
        np.save(path, x)
        reads = 0
        with pytest.raises(
            ValueError, match=rf"pool '{path}' was written to while its rows were read: it had \d+ bytes"
        ):
            select(path, method)


def test_a_state_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"state_folder .*/file' is a file, wanted a folder"):
        select(clusters(), "sift", state_folder=tmp_path / "file")


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_rows_that_do_not_count_are_reported(method, value):
    x = clusters().astype(np.float64)
    x[[9, 40, 41], [0, 1, 2]] = value
    with np.errstate(over="ignore"):
        chosen = select(x, method)
    assert chosen.dropped == 5 and not {5, 9, 40, 41, 170} & set(chosen.indices.tolist())
