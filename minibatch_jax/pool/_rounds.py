"""Rounds whose state is saved on disk: a job that was killed continues after the last saved round, in all processes."""

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

State = dict[str, np.ndarray]


class Job(NamedTuple):
    """A choice in rounds.

    Attributes:
      init: returns the state before the first round.
      step: runs one round; the same state and pool give the same new state, bit for bit.
      progress: returns the fraction of the work that is done, 1 at the end.
      result: turns the last state into the result.
    """

    init: Callable[[], State]
    step: Callable[[State], State]
    progress: Callable[[State], float]
    result: Callable[[State], Any]


def run(job: Job, folder: Path | None, call: dict[str, Any], show: Callable[[float], None]) -> Any:
    """Run the rounds from the last one that all processes have saved, or from the start."""
    number, state = _load(folder, call) if folder is not None else (0, None)
    state = job.init() if state is None else state
    while job.progress(state) < 1:
        show(job.progress(state))
        state, number = job.step(state), number + 1
        if folder is not None:
            _save(folder, number, state, call)
    show(1.0)
    return job.result(state)


def gather(arrays: State) -> list[State]:
    """Return the arrays of every process, in the order of the processes, bit for bit."""
    if jax.process_count() == 1:
        return [arrays]
    from jax.experimental import multihost_utils

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.array([len(data)], np.int32))).reshape(-1)
    padded = np.pad(data, (0, int(lengths.max()) - len(data)))
    everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [dict(np.load(io.BytesIO(row[:n].tobytes()))) for row, n in zip(everyone, lengths)]


def _save(folder: Path, number: int, state: State, call: dict[str, Any]) -> None:
    """Write a round atomically and delete the one two rounds back: no process is more than one round ahead."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, number)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, call=np.array(json.dumps(call, sort_keys=True)), **state)
    os.replace(partial, path)
    gather({"number": np.array(number)})
    _path(folder, number - 2).unlink(missing_ok=True)


def _load(folder: Path, call: dict[str, Any]) -> tuple[int, State | None]:
    pattern = re.compile(rf"process{jax.process_index()}-round(\d+)\.npz")
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    saved = [int(m.group(1)) for m in map(pattern.fullmatch, names) if m]
    number = min(int(g["number"]) for g in gather({"number": np.array(max(saved, default=0))}))
    if number == 0:
        return 0, None
    with np.load(_path(folder, number)) as file:
        state = dict(file)
    before = json.loads(str(state.pop("call")))
    differs = {name: (before.get(name), value) for name, value in call.items() if before.get(name) != value}
    if differs:
        raise ValueError(
            f"state_folder {str(folder)!r} holds another call, (saved, given) = {differs}; wanted the same."
        )
    return number, state


def _path(folder: Path, number: int) -> Path:
    return folder / f"process{jax.process_index()}-round{number:06d}.npz"
