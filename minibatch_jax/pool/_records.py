"""Rows of anything with a length that gives records by number: a data source of grain or tfds, array_record shards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minibatch_jax._extras import require
from minibatch_jax.pool._files import check_unchanged, stamp

BATCH = 1024  # records that are read at a time: those of images are large
TOLD = 100  # damaged records of which is kept what was said
TRIED = 16  # records from the start, of which one must be intact, since it tells width and dtype


class RecordRows:
    """Rows `[N, D]` made of the records of a source. A record of which no row can be made gives a row of NaN.

    Attributes:
      damaged: why no row can be made of a record, by its number, for the records that were read.
    """

    def __init__(self, source: Any, row: str | Callable[[Any], Any] | None, name: str):
        self._source, self._make, self._name = source, row, name
        self._size = len(source)
        self.damaged: dict[int, str] = {}
        if self._size == 0:
            self.shape, self.dtype = (0, 0), np.dtype(np.float32)
            return
        first = self._first()
        self.shape, self.dtype = (self._size, len(first)), first.dtype

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if len(self._source) != self._size:
            raise ValueError(
                f"{self._name} had {self._size} records when it was opened, now {len(self._source)}. Make the call "
                "again on a source that stays as it is."
            )
        wanted = np.arange(*rows.indices(self._size)) if isinstance(rows, slice) else np.asarray(rows)
        found = np.full((len(wanted), self.shape[1]), np.nan, self.dtype)
        for start in range(0, len(wanted), BATCH):
            numbers = wanted[start : start + BATCH].tolist()
            for place, (number, record) in enumerate(zip(numbers, self._read(numbers)), start):
                try:
                    if isinstance(record, Unreadable):
                        raise record
                    made = self._row(record)
                    if made.shape != self.shape[1:] or made.dtype != self.dtype:
                        raise ValueError(
                            f"{made.dtype} of shape {list(made.shape)}, wanted {self.dtype} of {list(self.shape[1:])}"
                        )
                    found[place] = made
                except Exception as error:  # whatever a decoder raises on a record that is damaged
                    self.damaged[number] = _told(error) if len(self.damaged) < TOLD else "as others"
        return found

    def _first(self) -> np.ndarray:
        """Return the first row that can be made."""
        failure: Any = None
        for number in range(min(self._size, TRIED)):
            (record,) = self._read([number])
            try:
                if isinstance(record, Unreadable):
                    raise record
                made = self._row(record)
            except Exception as error:
                failure = failure or error
                continue
            if made.ndim == 1 and len(made) and np.issubdtype(made.dtype, np.floating):
                return made
            given = f"{made.dtype} of shape {list(made.shape)}"
            if made.dtype == object and isinstance(record, dict):
                given = f"a dict with the keys {', '.join(map(repr, record))}"
            raise TypeError(
                f"{self._name}: record {number} gives {given}, wanted a row [D], floating point. Say how to make it, "
                "open_pool(..., row=a key of the record, or a function of it)."
            )
        raise ValueError(
            f"{self._name}: none of the first {min(self._size, TRIED)} records gives a row; the first says "
            f"{_told(failure)}. Look at row= and at the data."
        ) from failure

    def _row(self, record: Any) -> np.ndarray:
        if self._make is None:
            return np.asarray(record)
        return np.asarray(self._make(record) if callable(self._make) else record[self._make])

    def _read(self, numbers: list[int]) -> list[Any]:
        try:
            if hasattr(self._source, "__getitems__"):
                return list(self._source.__getitems__(numbers))
            return [self._source[number] for number in numbers]
        except Exception as error:
            if isinstance(self._source, ArrayRecords):  # whose errors name the file
                raise
            what = f"record {numbers[0]}" if len(numbers) == 1 else f"one of the records {numbers[0]} to {numbers[-1]}"
            raise RuntimeError(
                f"{self._name}: {what} cannot be read ({_told(error)}). See to it that the source gives it, then make "
                "the call again."
            ) from error


class Unreadable(Exception):
    """Stands for a record that its file holds no longer as it was written."""


class ArrayRecords:
    """The records of an array_record file. A record in a damaged part of the file is `Unreadable`."""

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._written = stamp(self._path)
        module = require("array_record.python.array_record_module", "array_record")
        self._reader = module.ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
        self._size = self._reader.num_records()
        if self._size == 0 and self._written[0] > 0:
            raise ValueError(
                f"pool {str(path)!r} holds no record in {self._written[0]} bytes: it is empty, cut short, damaged "
                "or no array_record file. Write it again."
            )

    def __len__(self) -> int:
        return self._size

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        check_unchanged(self._path, self._written)
        return self._intact(numbers)

    def _intact(self, numbers: list[int]) -> list[Any]:
        """Read records; if there is a damaged one among them, read halves until it is alone."""
        try:
            return self._reader.read(numbers)
        except RuntimeError as error:
            if len(numbers) == 1:
                return [Unreadable(str(error))]
        middle = len(numbers) // 2
        return self._intact(numbers[:middle]) + self._intact(numbers[middle:])


def raw_row(record: bytes) -> np.ndarray:
    """Return the float32 row whose bytes are the record."""
    return np.frombuffer(record, np.float32)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}"
