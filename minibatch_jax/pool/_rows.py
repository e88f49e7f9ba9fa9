"""The rows of a pool on disk: chunks of one shape, and which of them this process reads."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Rows:
    """A pool `[N, D]` in chunks of one shape, so that every process runs the same programs on the same data.

    Attributes:
      size, width: N, D.
      chunk_rows: rows of a chunk; the last is filled up with NaN.
      own: numbers of the chunks of this process, consecutive; over the processes in order they are all chunks.
    """

    def __init__(self, pool: Any, chunk_rows: int):
        self._pool = pool
        opened = self._open()
        (self.size, self.width), self.dtype = opened.shape, opened.dtype
        self.chunk_rows = min(chunk_rows, self.size)
        count = -(-self.size // self.chunk_rows)
        edges = [count * p // jax.process_count() for p in range(jax.process_count() + 1)]
        self.own = range(edges[jax.process_index()], edges[jax.process_index() + 1])

    def chunk(self, number: int) -> np.ndarray:
        """Rows `[chunk_rows, D]` of a chunk."""
        start = number * self.chunk_rows
        rows = np.asarray(self._open()[start : start + self.chunk_rows])
        missing = self.chunk_rows - len(rows)
        return np.pad(rows, ((0, missing), (0, 0)), constant_values=np.nan) if missing else np.array(rows)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Rows `[n, D]`, float32, read in the order of the file."""
        order = np.argsort(indices, kind="stable")
        rows = np.empty((len(indices), self.width), np.float32)
        rows[order] = self._open()[np.asarray(indices)[order]]
        return rows

    def ends(self) -> str:
        """Digest of the first and the last row: another file of this shape has another."""
        opened = self._open()
        return hashlib.sha256(np.array([opened[0], opened[-1]]).tobytes()).hexdigest()

    def places(self, number: int) -> slice:
        """Where a chunk of this process lies in an array of all rows of this process."""
        start = (number - self.own.start) * self.chunk_rows
        return slice(start, start + self.chunk_rows)

    @property
    def own_rows(self) -> int:
        """How many rows this process has, with the filling."""
        return len(self.own) * self.chunk_rows

    @property
    def first(self) -> int:
        """Number of this process's first row."""
        return self.own.start * self.chunk_rows

    def _open(self) -> Any:
        """Opened anew for every read, so that the pages read before do not count as this process's memory."""
        return np.load(self._pool, mmap_mode="r") if isinstance(self._pool, str | Path) else self._pool


def usable(rows: jax.Array, unit: bool) -> tuple[jax.Array, jax.Array]:
    """Rows in float32, of unit length if asked, 0 where not finite, and which are finite."""
    rows = rows.astype(jnp.float32)
    finite = jnp.isfinite(rows).all(1)
    rows = jnp.where(finite[:, None], rows, 0)
    if unit:
        norms = jnp.sqrt(jnp.sum(rows**2, 1))
        rows = rows / jnp.where(norms > 0, norms, 1)[:, None]
    return rows, finite
