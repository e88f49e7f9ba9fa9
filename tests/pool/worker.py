"""One of two processes: `python -m tests.pool.worker PORT PROCESS FOLDER ROUNDS`; stops after some rounds if told."""

import contextlib
import errno
import os
import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from minibatch_jax._locks import locked_folder
from minibatch_jax.pool import _badge, _centers, _rounds, _transport, cluster_rows, select_from_pool

SIFT = {"method": "sift", "queries": np.random.default_rng(5).normal(size=(2, 6)).astype(np.float32)}
LABELED = np.array([3, 40, 41, 250])
CALLS = {
    "facility location": {"method": "facility_location", "rows_per_part": 64, "block_size": 64},
    "k-center": {"method": "k_center", "metric": "cosine", "block_size": 64},
    "k-center, shards": {"method": "k_center", "block_size": 64, "pool": ["first.npy", "second.parquet"]},
    "k-center, one chunk": {"method": "k_center", "block_size": 512},
    "core-set": {"method": "k_center", "block_size": 64, "chosen": LABELED},
    "BADGE": {"method": "badge", "block_size": 64, "chosen": LABELED, "logits": "logits.npy"},
    "uncertain": {"method": "uncertain", "block_size": 64, "chosen": LABELED, "score": "entropy"},
    "light-weight": {"method": "lightweight_coreset", "block_size": 64, "chosen": LABELED},
    "clusters": {"method": "clusters", "batch_size": 128, "passes": 2},
    "SIFT": SIFT | {"block_size": 64},
    "GOT-D": SIFT | {"method": "got_d", "block_size": 64},
    "SIFT, one chunk": SIFT | {"block_size": 512},
}


def calls(rounds: int) -> list[str]:
    """Return the calls to make: some of them only where they are stopped and go on, which asks for more."""
    return [name for name in CALLS if rounds or "chosen" not in CALLS[name]]


def select(folder: Path, name: str, state_folder: Path | None = None):
    _centers.CANDIDATES = _badge.CANDIDATES = 4
    _badge.ROUND, _transport.SAMPLE = 3, 20
    options = dict(CALLS[name])
    if "logits" in options:
        options["logits"] = folder / options["logits"]
    pool = [folder / shard for shard in options.pop("pool", ["pool.npy"])]
    if options["method"] == "clusters":
        del options["method"]
        return cluster_rows(pool, 9, progress=False, state_folder=state_folder, **options)
    return select_from_pool(pool, 9, progress=False, state_folder=state_folder, **options)


class Stopped(Exception):
    pass


def stop_after(rounds: int, process: int) -> None:
    """Die in the midst of a save: one process has this round on disk, the other does not."""
    save = _rounds._save

    def save_or_stop(folder, number, state, call):
        if number == rounds and process == 1:
            raise Stopped
        if number == rounds:
            gather, _rounds.gather = _rounds.gather, lambda arrays: [arrays]
            save(folder, number, state, call)
            _rounds.gather = gather
            raise Stopped
        save(folder, number, state, call)

    _rounds._save = save_or_stop


def refuse_other_calls(folder: Path, process: int) -> None:
    """Both processes say so if one of them makes another call, has another pool, or cannot write."""
    pool = np.load(folder / "pool.npy")
    same = {"method": "k_center", "block_size": 64, "progress": False}
    other = {
        "k": {"k": 9 + process},
        "metric": {"metric": ("cosine", "euclidean")[process]},
        "pool": {"pool": pool + np.float16(process)},
        "shape": {"pool": pool[process:]},
        "state_folder_given": {"state_folder": folder / "some" if process else None},
    }
    for name, changes in other.items():
        call = {"pool": pool, "k": 9} | same | changes
        try:
            select_from_pool(call.pop("pool"), call.pop("k"), **call)
        except ValueError as error:
            assert "wanted the same on all 2 processes" in str(error), (name, error)
        else:
            raise AssertionError(name)
    rename = os.replace

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    os.replace = full if process else rename
    try:
        select_from_pool(pool, 9, state_folder=folder / "full", **same)
    except OSError as error:
        assert "could not write round 1 on process 1" in str(error), error
    else:
        raise AssertionError("full")
    os.replace = rename
    with locked_folder("it", folder / "used", "process1.lock") if process else contextlib.nullcontext():
        process_allgather(np.zeros(1))
        try:
            select_from_pool(pool, 9, state_folder=folder / "used", **same)
        except RuntimeError as error:
            wanted = "is in use by another job, process" if process else "cannot be used on process 1"
            assert wanted in str(error), error
        else:
            raise AssertionError("used")


def main(port: str, process: int, folder: Path, rounds: int) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    if not rounds:
        refuse_other_calls(folder, process)
    save = _rounds._save
    for name in calls(rounds):
        if rounds:
            stop_after(rounds, process)
            with contextlib.suppress(Stopped):  # some are done before
                select(folder, name, folder / name)
            _rounds._save = save
        chosen = select(folder, name, folder / name)
        np.savez(folder / f"{name}-{process}.npz", **chosen._replace(report=str(chosen.report))._asdict())
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
