"""The rows of a pool on disk: chunks of one shape, and which of them this process reads."""

import hashlib
import io
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

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


class NpyFile:
    """Rows of a `.npy` file `[N, D]`. They are read, not mapped: mapped pages count as memory of this process."""

    def __init__(self, path: str | Path):
        self._path = Path(path)
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            self.shape, self.dtype, self._offset = mapped.shape, mapped.dtype, mapped.offset
        except OSError:
            raise
        except Exception as error:  # numpy has another one for each way in which a file is damaged
            raise ValueError(
                f"pool {str(path)!r} cannot be read ({type(error).__name__}): it is cut short, damaged or no .npy "
                "file. Write it again with np.save."
            ) from None
        if not mapped.flags.c_contiguous:
            raise ValueError(f"pool {str(path)!r} is in Fortran order, wanted rows one after the other (C order).")
        self._written = self._stat()
        wanted = self._offset + mapped.nbytes
        if self._written[0] != wanted:
            raise ValueError(
                f"pool {str(path)!r} has {self._written[0]} bytes, but by its header {self.dtype} of shape "
                f"{list(self.shape)} and {wanted} bytes: damaged. Write it again with np.save."
            )

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
        with self._path.open("rb", buffering=0) as file:
            for row, into in parts:
                file.seek(self._offset + row * length)
                self._fill(file, into.reshape(-1).view(np.uint8))
        if self._stat() != self._written:
            self._changed()
        return found

    def _fill(self, file: io.FileIO, into: np.ndarray) -> None:
        """Read until `into` is full: a single read gives fewer bytes if a signal comes, or above 2 GB."""
        done = 0
        while done < len(into):
            count = file.readinto(into[done:].data)
            if not count:
                self._changed()
            done += count

    def _stat(self) -> tuple[int, int]:
        found = self._path.stat()
        return found.st_size, found.st_mtime_ns

    def _changed(self) -> NoReturn:
        raise ValueError(
            f"pool {str(self._path)!r} was written to while its rows were read: it had {self._written[0]} bytes, now "
            f"{self._stat()[0]}. Make the call again on a file that stays as it is."
        )


def usable(rows: jax.Array, unit: bool) -> tuple[jax.Array, jax.Array]:
    """Return the rows in float32, and which of them can be measured. The others become 0; `unit` scales to length 1."""
    rows = rows.astype(jnp.float32)
    if unit:
        rows, finite = finite_rows(rows)
        return unit_rows(rows), finite
    return measurable_rows(rows)
