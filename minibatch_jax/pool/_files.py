"""Rows that lie one after the other in a `.npy` file or in a memory map, read a block at a time."""

import contextlib
import io
import mmap
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


class FileRows:
    """Rows `[N, D]` that lie one after the other in a file. They are read, not mapped.

    Mapped pages count as memory of this process, and to touch one that a shorter file no longer has kills the process.
    """

    def __init__(self, path: str | Path, shape: tuple[int, ...], dtype: np.dtype, offset: int):
        self._path, self.shape, self.dtype, self._offset = Path(path), shape, dtype, offset
        self._written = stamp(self._path)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        width = self.shape[1]
        length = width * self.dtype.itemsize
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.shape[0])
            found = np.empty((stop - start, width), self.dtype)
            parts = [(start, found)]
        else:
            found = np.empty((len(rows), width), self.dtype)
            parts = zip(rows.tolist(), found)
        try:
            with self._path.open("rb", buffering=0) as file:
                for row, into in parts:
                    file.seek(self._offset + row * length)
                    self._fill(file, into.reshape(-1).view(np.uint8))
        except OSError as error:
            raise_unreadable(self._path, error)
        check_unchanged(self._path, self._written)
        return found

    def _fill(self, file: io.FileIO, into: np.ndarray) -> None:
        """Read until `into` is full: a single read gives fewer bytes if a signal comes, or above 2 GB."""
        done = 0
        while done < len(into):
            count = file.readinto(into[done:].data)
            if not count:
                raise_changed(self._path, self._written[0], stamp(self._path)[0])
            done += count


class NpyFile(FileRows):
    """Rows of a `.npy` file `[N, D]`."""

    def __init__(self, path: str | Path):
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            super().__init__(path, mapped.shape, mapped.dtype, mapped.offset)
        except OSError:
            raise
        except Exception as error:  # numpy has another one for each way in which a file is damaged
            raise ValueError(
                f"pool {str(path)!r} cannot be read ({type(error).__name__}): it is cut short, damaged or no .npy "
                "file. Write it again with np.save."
            ) from None
        if not mapped.flags.c_contiguous:
            raise ValueError(f"pool {str(path)!r} is in Fortran order, wanted rows one after the other (C order).")
        size, wanted = self._written[0], self._offset + mapped.nbytes
        if size != wanted:
            raise ValueError(
                f"pool {str(path)!r} has {size} bytes, but by its header {self.dtype} of shape "
                f"{list(self.shape)} and {wanted} bytes: damaged. Write it again with np.save."
            )


class MappedRows:
    """Rows of a memory map that are no stretch of a file of that name; the file's size is looked at for each block."""

    def __init__(self, pool: np.ndarray, mapped: np.memmap):
        self._pool, self._mapped = pool, mapped
        self.shape, self.dtype = pool.shape, pool.dtype
        self._size = self._size_now()
        wanted = mapped.offset + mapped.nbytes
        if self._size < wanted:
            raise ValueError(
                f"pool {str(mapped.filename)!r} has {self._size} bytes, but its memory map was made of {wanted}: it "
                "was cut short. Write it again and map it again."
            )

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        self._check()
        found = np.array(self._pool[rows])  # a copy: nobody touches the pages later
        self._check()
        return found

    def _check(self) -> None:
        if (now := self._size_now()) != self._size:
            raise_changed(self._mapped.filename, self._size, now)

    def _size_now(self) -> int:
        return self._mapped.base.size()  # pyright: ignore


def rows_of_array(pool: Any) -> Any:
    """Return the rows of a memory map as those of its file where that can be, and any other array as it is."""
    mapped = pool
    while isinstance(mapped, np.ndarray) and isinstance(mapped.base, np.ndarray):
        mapped = mapped.base
    if not (isinstance(mapped, np.memmap) and isinstance(mapped.base, mmap.mmap)):
        return pool
    looked_at = MappedRows(pool, mapped)
    in_a_row = pool.flags.c_contiguous and pool.ndim == 2 and pool.size > 0
    if not in_a_row or mapped.filename is None or mapped.mode == "c":  # a copy that may have been written to
        return looked_at
    if mapped.mode != "r":
        mapped.flush()  # else the time of the last change may come later
    offset = mapped.offset + pool.ctypes.data - mapped.ctypes.data
    with contextlib.suppress(OSError, ValueError):  # the name is gone, or is that of another file
        read = FileRows(mapped.filename, pool.shape, pool.dtype, offset)
        ends = np.array([0, len(pool) - 1])
        if read[ends].tobytes() == looked_at[ends].tobytes():
            return read
    return looked_at


class Changed(ValueError):
    """A file is no longer what it was when it was opened."""


def stamp(path: Path) -> tuple[int, int, int]:
    """Return size, time of the last change and number of a file: one of them differs if the file is another."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def check_unchanged(path: Path, written: tuple[int, int, int]) -> None:
    """Raise if a file is gone or is not the one that had this stamp."""
    try:
        now = stamp(path)
    except OSError as error:
        raise_unreadable(path, error)
    if now != written:
        raise_changed(path, written[0], now[0])


def raise_changed(path: Any, before: int, now: int) -> NoReturn:
    raise Changed(
        f"pool {str(path)!r} was written to while its rows were read: it had {before} bytes, now {now}. Make the call "
        "again on a file that stays as it is."
    )


def raise_unreadable(path: Path, error: OSError) -> NoReturn:
    raise OSError(
        error.errno, f"pool {str(path)!r} can no longer be read ({error.strerror}). Make the call again when it can."
    ) from error
