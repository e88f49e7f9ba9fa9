"""One of two processes: `python -m tests.pool.worker PORT PROCESS FOLDER [ROUNDS]`; stops after some rounds if told."""

import sys
from pathlib import Path

import jax
import numpy as np

from minibatch_jax.pool import _centers, _rounds, select_from_pool

SIFT = {"method": "sift", "queries": np.random.default_rng(5).normal(size=(2, 6)).astype(np.float32)}
CALLS = {
    "facility location": {"method": "facility_location", "rows_per_part": 64, "block_size": 64},
    "k-center": {"method": "k_center", "metric": "cosine", "block_size": 64},
    "k-center, one chunk": {"method": "k_center", "block_size": 512},
    "SIFT": SIFT | {"block_size": 64},
    "SIFT, one chunk": SIFT | {"block_size": 512},
}


def select(folder: Path, name: str, state_folder: Path | None = None):
    _centers.CANDIDATES = 4
    return select_from_pool(folder / "pool.npy", 9, progress=False, state_folder=state_folder, **CALLS[name])


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


def main(port: str, process: int, folder: Path, rounds: int) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    save = _rounds._save
    for name in CALLS:
        if rounds:
            stop_after(rounds, process)
            try:
                select(folder, name, folder / name)
            except Stopped:
                _rounds._save = save
        chosen = select(folder, name, folder / name)
        np.savez(folder / f"{name}-{process}.npz", **chosen._asdict())
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
