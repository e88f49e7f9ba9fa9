"""The rows of a pool on disk: chunks of one shape, and which of them this process reads."""

import contextlib
import hashlib
import io
import mmap
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_shape
from minibatch_jax.geometry import finite_rows, measurable_rows, unit_rows
from minibatch_jax.pool._rounds import gather


class Rows:
    """A pool `[N, D]` in chunks of one shape, so that every process runs the same programs on the same data.

    Attributes:
      name: what errors call it.
      size, width: N, D.
      block_size: rows of a chunk; the last is filled up with NaN.
      own: numbers of the chunks of this process, consecutive. Every chunk belongs to one process.
    """

    def __init__(self, pool: Any, block_size: int, name: str):
        self._pool = pool
        self.name = name
        (self.size, self.width), self.dtype = self._pool.shape, self._pool.dtype
        self.block_size = min(block_size, self.size)
        count = -(-self.size // self.block_size)
        edges = [count * p // jax.process_count() for p in range(jax.process_count() + 1)]
        self.own = range(edges[jax.process_index()], edges[jax.process_index() + 1])

    def chunk(self, number: int) -> np.ndarray:
        """Return the rows `[block_size, D]` of a chunk."""
        start = number * self.block_size
        rows = np.asarray(self._pool[start : start + self.block_size])
        missing = self.block_size - len(rows)
        return np.pad(rows, ((0, missing), (0, 0)), constant_values=np.nan) if missing else rows

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Return rows `[n, D]` in float32. They are read in the order of the file."""
        order = np.argsort(indices, kind="stable")
        rows = np.empty((len(indices), self.width), np.float32)
        rows[order] = self._pool[np.asarray(indices)[order]]
        return rows

    def ends(self) -> str:
        """Return a digest of the first and the last row, which tells this file from most others of its shape."""
        return hashlib.sha256(self.at(np.array([0, self.size - 1])).tobytes()).hexdigest()

    def digest(self) -> str:
        """Return a digest of all rows. It takes a pass over the file, of which each process reads its part."""
        digest = hashlib.sha256()
        for number in self.own:
            digest.update(np.ascontiguousarray(self.chunk(number)).view(np.uint8).data)
        parts = gather({"digest": np.frombuffer(digest.digest(), np.uint8)})
        return hashlib.sha256(b"".join(part["digest"].tobytes() for part in parts)).hexdigest()

    def dropped(self, finite: int) -> int:
        """Return how many rows are not finite, from how many of this process's rows are; raises if none is anywhere."""
        count = sum(int(part["finite"]) for part in gather({"finite": np.array(finite)}))
        if count == 0:
            raise ValueError(
                f"pool {self.name} has no row of {self.size} that is finite in float32, wanted one or more."
            )
        return self.size - count

    def places(self, number: int) -> slice:
        """Return the place of a chunk of this process in an array of all rows of this process."""
        start = (number - self.own.start) * self.block_size
        return slice(start, start + self.block_size)

    @property
    def own_rows(self) -> int:
        """Number of rows of this process, filled rows included."""
        return len(self.own) * self.block_size

    @property
    def first(self) -> int:
        """Number of this process's first row."""
        return self.own.start * self.block_size


class FileRows:
    """Rows `[N, D]` that lie one after the other in a file. They are read, not mapped.

    Mapped pages count as memory of this process, and to touch one that a shorter file no longer has kills the process.
    """

    def __init__(self, path: str | Path, shape: tuple[int, ...], dtype: np.dtype, offset: int):
        self._path, self.shape, self.dtype, self._offset = Path(path), shape, dtype, offset
        self._written = self._stat()

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
            now = self._stat()
        except OSError as error:
            raise OSError(
                error.errno,
                f"pool {str(self._path)!r} can no longer be read ({error.strerror}). Make the call again when it can.",
            ) from error
        if now != self._written:
            _raise_changed(self._path, self._written[0], now[0])
        return found

    def _fill(self, file: io.FileIO, into: np.ndarray) -> None:
        """Read until `into` is full: a single read gives fewer bytes if a signal comes, or above 2 GB."""
        done = 0
        while done < len(into):
            count = file.readinto(into[done:].data)
            if not count:
                _raise_changed(self._path, self._written[0], self._stat()[0])
            done += count

    def _stat(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_size, found.st_mtime_ns, found.st_ino


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
            _raise_changed(self._mapped.filename, self._size, now)

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


def _raise_changed(path: Any, before: int, now: int) -> NoReturn:
    raise ValueError(
        f"pool {str(path)!r} was written to while its rows were read: it had {before} bytes, now {now}. Make the call "
        "again on a file that stays as it is."
    )


def usable(rows: jax.Array, unit: bool) -> tuple[jax.Array, jax.Array]:
    """Return the rows in float32, and which of them can be measured. The others become 0; `unit` scales to length 1."""
    rows = rows.astype(jnp.float32)
    if unit:
        rows, finite = finite_rows(rows)
        return unit_rows(rows), finite
    return measurable_rows(rows)


def open_rows(pool: Any, block_size: int) -> Rows:
    """Check a file or an array of rows and open it."""
    opened: Any = NpyFile(pool) if isinstance(pool, str | Path) else rows_of_array(pool)
    dtype = np.dtype(getattr(opened, "dtype", object))
    if not np.issubdtype(dtype, np.floating) or not dtype.isnative:
        raise TypeError(f"pool has dtype {dtype}, wanted a floating-point dtype in the byte order of this machine.")
    check_shape("pool", opened, (None, None))
    name = repr(str(pool)) if isinstance(pool, str | Path) else f"of shape {list(opened.shape)}"
    return Rows(opened, int(block_size), name)
