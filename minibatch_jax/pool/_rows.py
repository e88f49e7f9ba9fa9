"""The rows of a pool on disk: chunks of one shape, and which of them this process reads."""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.geometry import finite_rows, measurable_rows, unit_rows
from minibatch_jax.pool._open import Pool, named_pool
from minibatch_jax.pool._report import CAUSES, EXAMPLES, PoolReport
from minibatch_jax.pool._rounds import gather


class Rows:
    """A pool `[N, D]` in chunks of one shape, so that every process runs the same programs on the same data.

    Attributes:
      name: what errors call it.
      size, width: N, D.
      unit: whether rows are compared by their directions, so that no length is too large.
      softmax: whether rows are logits, which count if their softmax is finite.
      block_size: rows of a chunk; the last is filled up with NaN.
      logits: second array of the same rows, in the same chunks, or None. A row counts if both of its parts do.
      own: numbers of the chunks of this process, consecutive. Every chunk belongs to one process.
    """

    def __init__(
        self, pool: Pool, block_size: int, *, unit: bool = False, softmax: bool = False, logits: "Rows | None" = None
    ):
        self._pool = pool
        self.name, self.unit, self.softmax, self.logits = pool.name, unit, softmax, logits
        (self.size, self.width), self.dtype = pool.shape, pool.dtype
        self.block_size = min(block_size, self.size)
        count = -(-self.size // self.block_size)
        edges = [count * p // jax.process_count() for p in range(jax.process_count() + 1)]
        self.own = range(edges[jax.process_index()], edges[jax.process_index() + 1])
        self._counted: dict[int, np.ndarray] = {}  # causes by shard `[4, S]` of each own chunk that was read
        self._lost: list[tuple[int, int]] = []  # row and cause, of the first rows of each cause in each of these chunks

    def chunk(self, number: int) -> np.ndarray:
        """Return the rows `[block_size, D]` of a chunk, in float32 or in half precision."""
        start = number * self.block_size
        rows = self._pool[start : start + self.block_size]
        missing = self.block_size - len(rows)
        found = np.pad(rows, ((0, missing), (0, 0)), constant_values=np.nan) if missing else rows
        if found.dtype.itemsize > 4:
            with np.errstate(over="ignore"):
                found = found.astype(np.float32)
        if number not in self._counted:
            self._counted[number] = self._causes(start, rows, found)
        return found

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Return rows `[n, D]` in float32. They are read in the order of the file."""
        with np.errstate(over="ignore"):
            return self._pool[indices].astype(np.float32)

    def ends(self) -> str:
        """Return a digest of the first and the last row, which tells this file from most others of its shape."""
        ends = np.array([0, self.size - 1])
        found = self.at(ends).tobytes() + (b"" if self.logits is None else self.logits.at(ends).tobytes())
        return hashlib.sha256(found).hexdigest()

    def digest(self) -> str:
        """Return a digest of all rows. It takes a pass over the file, of which each process reads its part."""
        digest = hashlib.sha256()
        for number in self.own:
            digest.update(np.ascontiguousarray(self.chunk(number)).view(np.uint8).data)
            if self.logits is not None:
                digest.update(np.ascontiguousarray(self.logits.chunk(number)).view(np.uint8).data)
        parts = gather({"digest": np.frombuffer(digest.digest(), np.uint8)})
        return hashlib.sha256(b"".join(part["digest"].tobytes() for part in parts)).hexdigest()

    def report(self) -> PoolReport:
        """Return how many rows do not count, of all processes; raises if none does. It reads what was not read yet."""
        for number in self.own:
            if number not in self._counted:
                self.chunk(number)
        own = sum(self._counted.values(), np.zeros((4, len(self._pool.shards)), np.int64))
        examples = [f"row {row}: {why}" for row, why in sorted(self._pool.damaged().items())[:EXAMPLES]]
        lost = np.array(sorted(self._lost), np.int64).reshape(-1, 2)
        everyone = gather({"counts": own, "examples": np.array(examples, str), "lost": lost})
        counts = np.sum([part["counts"] for part in everyone], axis=0)
        told = list(dict.fromkeys(str(example) for part in everyone for example in part["examples"]))[:EXAMPLES]
        named, lost = told.copy(), np.concatenate([part["lost"] for part in everyone])
        for cause in (0, 1, 3):
            named += [f"row {row}: {CAUSES[cause]}" for row in lost[lost[:, 1] == cause, 0][:EXAMPLES]]
        found = PoolReport(
            self._pool.shards, self._pool.sizes, counts[0], counts[1], counts[2], counts[3], tuple(named)
        )
        if found.dropped == self.size:
            why = "; ".join([str(found).split(": ", 1)[1].split("\n")[0], *told[:1]])
            raise ValueError(
                f"pool {self.name} has no row of {self.size} that is finite in float32 ({why}), wanted one or more."
            )
        return found

    def are_among(self, chosen: np.ndarray) -> np.ndarray:
        """Return which of this process's rows `[own rows]` are among some row numbers."""
        found = np.zeros(self.own_rows, bool)
        found[chosen[(chosen >= self.first) & (chosen < self.first + self.own_rows)] - self.first] = True
        return found

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

    def _causes(self, start: int, rows: np.ndarray, chunk: np.ndarray) -> np.ndarray:
        """Return how many rows of a chunk, given as stored and as used, do not count, by cause and shard `[4, S]`."""
        counts = np.zeros((4, len(self._pool.shards)), np.int64)
        own = both = np.asarray(_counting(chunk, unit=self.unit, softmax=self.softmax))[: len(rows)]
        if self.logits is not None:
            logits = self.logits.chunk(start // self.block_size)
            both = own & np.asarray(_counting(logits, unit=False, softmax=True))[: len(rows)]
        lost = np.flatnonzero(~both)
        if len(lost):
            damaged = np.isin(lost + start, list(self._pool.damaged()))
            not_finite = ~np.isfinite(rows[lost]).all(1)
            cause = np.select([damaged, own[lost], not_finite], [2, 3, 0], 1)
            np.add.at(counts, (cause, self._pool.shard_of(lost + start)), 1)
            self._lost += [(int(row) + start, c) for c in range(4) for row in lost[cause == c][:EXAMPLES]]
        return counts


def usable(rows: jax.Array, unit: bool) -> tuple[jax.Array, jax.Array]:
    """Return the rows in float32, and which of them can be measured. The others become 0; `unit` scales to length 1."""
    rows = rows.astype(jnp.float32)
    if unit:
        rows, finite = finite_rows(rows)
        return unit_rows(rows), finite
    return measurable_rows(rows)


@functools.partial(jax.jit, static_argnames=("unit", "softmax"))
def _counting(rows, *, unit, softmax):
    if softmax:
        return jnp.all(jnp.isfinite(jax.nn.softmax(rows.astype(jnp.float32), axis=1)), axis=1)
    return usable(rows, unit)[1]


def open_rows(
    pool: Any, block_size: int, *, unit: bool = False, softmax: bool = False, logits: Any | None = None
) -> Rows:
    """Check what a user gave as the pool, and as its logits, and open it."""
    opened, second, block_size = named_pool("pool", pool), None, int(block_size)
    if logits is not None:
        logits = named_pool("logits", logits)
        if len(logits) != len(opened):
            raise ValueError(
                f"logits {logits.name} has {len(logits)} rows, wanted {len(opened)} as pool {opened.name}."
            )
        second = Rows(logits, block_size, softmax=True)
    return Rows(opened, block_size, unit=unit, softmax=softmax, logits=second)
