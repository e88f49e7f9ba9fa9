"""The rows of a pool on disk: chunks of one shape, and which of them this process reads."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.selection._similarities import unit_rows


class Rows:
    """A pool `[N, D]` in chunks of one shape, so that every process runs the same programs on the same data.

    Attributes:
      size, width: N, D.
      block_size: rows of a chunk; the last is filled up with NaN.
      own: numbers of the chunks of this process, consecutive. Every chunk belongs to one process.
    """

    def __init__(self, pool: Any, block_size: int):
        self._pool = NpyFile(pool) if isinstance(pool, str | Path) else pool
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
        """Return a digest of the first and the last row, which tells this file from others of its shape."""
        return hashlib.sha256(self.at(np.array([0, self.size - 1])).tobytes()).hexdigest()

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
        mapped = np.load(path, mmap_mode="r")
        self.shape, self.dtype, self._path = mapped.shape, mapped.dtype, path
        self._offset = mapped.offset
        if not mapped.flags.c_contiguous:
            raise ValueError(f"pool {str(path)!r} is in Fortran order, wanted rows one after the other (C order).")

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        width = self.shape[1]
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.shape[0])
            place = self._offset + start * width * self.dtype.itemsize
            return np.fromfile(self._path, self.dtype, (stop - start) * width, offset=place).reshape(-1, width)
        found, length = np.empty((len(rows), width), self.dtype), width * self.dtype.itemsize
        with open(self._path, "rb", buffering=0) as file:
            for row, into in zip(rows.tolist(), found):
                file.seek(self._offset + row * length)
                file.readinto(into.data)
        return found


def usable(rows: jax.Array, unit: bool) -> tuple[jax.Array, jax.Array]:
    """Return the rows in float32, and which of them are finite. The others become 0; `unit` scales to length 1."""
    rows = rows.astype(jnp.float32)
    finite = jnp.isfinite(rows).all(1)
    rows = jnp.where(finite[:, None], rows, 0)
    return unit_rows(rows) if unit else rows, finite
