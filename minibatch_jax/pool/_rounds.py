"""Rounds whose state is saved on disk: a job that was killed continues after the last saved round, in all processes."""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from minibatch_jax._locks import locked_folder

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


@contextlib.contextmanager
def kept_from_others(folder: Path | None) -> Iterator[None]:
    """Make the folder and keep other jobs out of it. The processes of one job share it; if one fails, all raise."""
    if folder is None:
        yield
        return
    name, failure = f"state_folder {str(folder)!r}", None
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked_folder(name, folder, f"process{jax.process_index()}.lock"))
        except (OSError, ValueError, RuntimeError) as error:
            failure = error
        everyone = gather({"failed": np.array(failure is not None)})
        failed = [process for process, made in enumerate(everyone) if made["failed"]]
        if failure is not None:
            raise failure
        if failed:
            raise RuntimeError(f"{name} cannot be used on process {failed[0]}, see its error; it can on this one.")
        yield


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
    _write(buffer, arrays)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.array([len(data)], np.int32))).reshape(-1)
    padded = np.pad(data, (0, int(lengths.max()) - len(data)))
    everyone = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [dict(np.load(io.BytesIO(row[:n].tobytes()))) for row, n in zip(everyone, lengths)]


def _save(folder: Path, number: int, state: State, call: dict[str, Any]) -> None:
    """Write a round atomically and delete the one two rounds back: no process is more than one round ahead.

    If the round cannot be written on one process, no part of it stays there and all processes raise.
    """
    path = _path(folder, number)
    partial, failure = path.with_suffix(".partial"), None
    text = json.dumps(call, sort_keys=True)
    try:
        with partial.open("wb") as file:
            _write(file, {"call": np.array(text), "digest": np.array(_digest(state, text))} | state)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        failure = error
    everyone = gather({"number": np.array(number), "failed": np.array(failure is not None)})
    failed = [process for process, saved in enumerate(everyone) if saved["failed"]]
    if failed:
        number_of_bytes = sum(value.nbytes for value in state.values())
        raise OSError(
            getattr(failure, "errno", None) or errno.EIO,
            f"state_folder {str(folder)!r}: could not write round {number} on process {failed[0]} "
            f"({failure or 'see its error'}), which takes {number_of_bytes / 1e6:.1f} MB; nothing half-written is "
            f"kept. If the disk is full, free space; the same call then goes on from round {number - 1}.",
        ) from failure
    _path(folder, number - 2).unlink(missing_ok=True)


def _write(file: Any, arrays: dict[str, Any]) -> None:
    """Write the arrays. NumPy 2.0 takes `allow_pickle` for the name of one more."""
    np.savez(file, **arrays)


def _load(folder: Path, call: dict[str, Any]) -> tuple[int, State | None]:
    """Return the newest round that is intact on all processes, and its state; 0 and None if nothing was saved."""
    own = re.compile(rf"process{jax.process_index()}-round(\d+)\.(npz|partial)")
    found = {path: match for path in folder.iterdir() if (match := own.fullmatch(path.name))}
    for path in found:
        if path.suffix == ".partial":  # of a process that was killed
            path.unlink()
    saved = sorted(int(match[1]) for path, match in found.items() if path.suffix == ".npz")
    damaged = {number: cause for number in saved if (cause := _damage(_path(folder, number)))}
    intact = [number for number in saved if number not in damaged]
    everyone = gather({"intact": np.array(intact, np.int64), "damaged": np.array(sorted(damaged), np.int64)})
    number = max(set.intersection(*(set(g["intact"].tolist()) for g in everyone)), default=0)
    told = "; ".join(f"{_path(folder, n)} is damaged ({why})" for n, why in damaged.items() if n > number)
    if number == 0 and any(len(g["damaged"]) for g in everyone):
        raise ValueError(
            f"state_folder {str(folder)!r} holds no round that is intact: {told or 'see the other processes'}. "
            "Delete the folder to start again, or bring its files back."
        )
    if number == 0:
        return 0, None
    if told:
        warnings.warn(f"{told}; going on from round {number}.", RuntimeWarning, stacklevel=4)
    state = _read(_path(folder, number))
    before = json.loads(str(state.pop("call")))
    differs = {name: (before.get(name), value) for name, value in call.items() if before.get(name) != value}
    if differs:
        raise ValueError(
            f"state_folder {str(folder)!r} holds another call, (saved, given) = {differs}; wanted the same. "
            "Delete the folder or choose another."
        )
    for late in saved:
        if late > number:  # damaged, or of a process that was a round ahead
            _path(folder, late).unlink(missing_ok=True)
    return number, state


def _damage(path: Path) -> str:
    """Return in what way a saved round is damaged, empty if it is intact."""
    try:
        _read(path)
    except Exception as error:  # each byte that is wrong leads numpy and zipfile to another error
        return "its digest is another" if isinstance(error, _OtherDigest) else type(error).__name__
    return ""


def _read(path: Path) -> State:
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        state = dict(file)
    digest = str(state.pop("digest"))
    if digest != _digest({name: value for name, value in state.items() if name != "call"}, str(state["call"])):
        raise _OtherDigest
    return state


def _digest(state: State, call: str) -> str:
    digest = hashlib.sha256(call.encode())
    for name in sorted(state):
        value = np.ascontiguousarray(state[name])
        digest.update(f"{name} {value.dtype} {state[name].shape}".encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


class _OtherDigest(Exception):
    pass


def _path(folder: Path, number: int) -> Path:
    return folder / f"process{jax.process_index()}-round{number:06d}.npz"
