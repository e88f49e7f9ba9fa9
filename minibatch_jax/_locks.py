"""A folder that one job at a time writes in. The kernel frees the lock of a process that ends, however it ends."""

import contextlib
import errno
import importlib
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

NOTHING_CAN_BE_WRITTEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def locked_folder(name: str, folder: Path, lock: str = "lock") -> Iterator[None]:
    """Make a folder and hold its lock file, in which this process writes its number and the name of its machine.

    A folder in which nothing can be written is not locked, and neither is one on a system without `flock`.

    Args:
      name: what errors call the folder.
      folder: which one.
      lock: name of the lock file in the folder. It stays when the lock is free.

    Raises:
      ValueError: if there is a file in place of the folder.
      OSError: if the folder or its lock file cannot be made.
      RuntimeError: if another process holds the lock; it names that process.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{name} is a file, wanted a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_made(name, error) from error
    with contextlib.ExitStack() as opened:
        try:
            descriptor = os.open(folder / lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno not in NOTHING_CAN_BE_WRITTEN:
                raise _not_made(name, error) from error
        else:
            opened.callback(os.close, descriptor)
            _lock(name, descriptor)
        yield


def _lock(name: str, descriptor: int) -> None:
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RuntimeError(
            f"{name} is in use by another job, {_holder(descriptor)}: wait until it has ended, stop it, or choose "
            "another folder."
        ) from error
    except OSError as error:
        warnings.warn(
            f"{name} cannot be locked ({error}): see to it that no other job uses it.", RuntimeWarning, stacklevel=4
        )
        return
    with contextlib.suppress(OSError):  # it is there to be read by people: a full disk does not matter
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "of an unknown process"


def _not_made(name: str, error: OSError) -> OSError:
    wanted = "wanted a folder to write in, on a disk with free space"
    return OSError(error.errno, f"{name} cannot be made ({error}); {wanted}.")
