"""Rows of a parquet file: a column of lists of one length, or one column for each entry of a row."""

import contextlib
import difflib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from minibatch_jax._extras import require
from minibatch_jax.pool._files import Changed, check_unchanged, raise_unreadable, stamp

BATCH = 8192  # rows that are decoded at a time: a row group may hold all rows of the file


class ParquetRows:
    """Rows `[N, D]` of a parquet file. Rows are decoded in the order of the file, from the start of a row group on.

    Rows at random places make a pass over the row groups that hold them.
    """

    def __init__(self, path: str | Path, columns: str | list[str] | None):
        self._path = Path(path)
        self._written = stamp(self._path)
        self._arrow, self._parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
        with self._named(), self._parquet.ParquetFile(self._path) as file:
            schema, groups = file.schema_arrow, file.metadata
            counts = [groups.row_group(g).num_rows for g in range(groups.num_row_groups)]
        self._edges = np.cumsum([0, *counts])
        self._columns = _columns(str(path), schema, columns, self._arrow)
        kinds = [_numbers(schema.field(name).type, self._arrow) for name in self._columns]
        floats = [kind.to_pandas_dtype() for kind in kinds if _floats(kind, self._arrow)]
        self.dtype = np.result_type(*floats, *([] if len(floats) == len(kinds) else [np.float32]))
        self._group, self._first, self._batch = -1, 0, np.zeros((0, 0), self.dtype)
        self._batches: Generator[Any] = self._decoded(0)
        self._lists = _is_list(schema.field(self._columns[0]).type, self._arrow)
        self.shape = int(self._edges[-1]), len(self._columns)
        if self._lists:
            self.shape = self.shape[0], self._width()

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return rows whose numbers ascend."""
        wanted = np.arange(*rows.indices(self.shape[0])) if isinstance(rows, slice) else rows
        found, done = np.empty((len(wanted), self.shape[1]), self.dtype), 0
        try:
            with self._named():
                while done < len(wanted):
                    first, batch = self._batch_with(int(wanted[done]))
                    until = int(np.searchsorted(wanted, first + len(batch)))
                    found[done:until] = batch[wanted[done:until] - first]
                    done = until
        except BaseException:
            self._group, self._batch = -1, self._batch[:0]  # what was decoded halfway is decoded again
            raise
        return found

    def _width(self) -> int:
        """Return the length of the first list that is there."""
        for g in range(len(self._edges) - 1):
            with self._named(), contextlib.closing(self._decoded(g)) as batches:
                for batch in batches:
                    lengths = batch.column(0).drop_null().value_lengths() if batch.num_rows else []
                    if len(lengths):
                        return lengths[0].as_py()
        return 0

    def _batch_with(self, row: int) -> tuple[int, np.ndarray]:
        """Return the decoded batch that holds a row, and the number of its first row."""
        group = int(np.searchsorted(self._edges, row, side="right")) - 1
        if row < self._first or (row >= self._end and group != self._group):
            self._start(group)
        while row >= self._end:
            decoded = next(self._batches, None)
            if decoded is None:
                self._raise_damaged(ValueError(f"row group {group} ends before row {row}"))
            self._first, self._batch = self._end, self._matrix(decoded, self._end)
            if self._end == self._edges[group + 1]:
                self._batches.close()  # so that no file stays open
        return self._first, self._batch

    @property
    def _end(self) -> int:
        return self._first + len(self._batch)

    def _start(self, group: int) -> None:
        self._batches.close()
        self._group, self._batches = group, self._decoded(group)
        self._first, self._batch = int(self._edges[group]), self._batch[:0]

    def _decoded(self, group: int) -> Generator[Any]:
        with self._parquet.ParquetFile(self._path, buffer_size=1 << 20, pre_buffer=False) as file:
            yield from file.iter_batches(BATCH, row_groups=[group], columns=self._columns)

    def _matrix(self, batch: Any, first: int) -> np.ndarray:
        """Return the rows of a batch; a row or an entry that is null becomes NaN."""
        columns = [batch.column(batch.schema.get_field_index(name)) for name in self._columns]
        if not self._lists:
            return np.stack([_floating(column, self.dtype) for column in columns], axis=1)
        (column,), width = columns, self.shape[1]
        exists = np.asarray(column.is_valid())
        lengths = np.asarray(column.drop_null().value_lengths())
        if np.any(lengths != width):
            row = first + int(np.flatnonzero(exists)[np.flatnonzero(lengths != width)[0]])
            raise _OtherLength(
                f"pool {str(self._path)!r}: column {self._columns[0]!r} has a list of {lengths[lengths != width][0]} "
                f"in row {row}, wanted {width} as in the first. Leave such rows out, or fill them up."
            )
        values = _floating(column.flatten(), self.dtype).reshape(-1, width)
        if exists.all():
            return values
        rows = np.full((len(exists), width), np.nan, self.dtype)
        rows[exists] = values
        return rows

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Look whether the file is still the same, and name it in the errors of pyarrow."""
        try:
            yield
        except (_OtherLength, Changed):
            raise
        except OSError as error:
            if error.errno is not None:
                raise_unreadable(self._path, error)
            self._raise_damaged(error)
        except self._arrow.ArrowException as error:
            self._raise_damaged(error)
        check_unchanged(self._path, self._written)

    def _raise_damaged(self, error: Exception) -> NoReturn:
        check_unchanged(self._path, self._written)
        raise ValueError(
            f"pool {str(self._path)!r} cannot be read ({type(error).__name__}: {str(error).strip()[:200]}): it is cut "
            "short, damaged or no parquet file. Write it again."
        ) from error


class _OtherLength(ValueError):
    pass


def _columns(path: str, schema: Any, columns: str | list[str] | None, arrow: Any) -> list[str]:
    """Return the columns that hold the rows: those asked for, the only one of lists, or all if all are numbers."""
    if columns is None:
        lists = [f.name for f in schema if _is_list(f.type, arrow) and _floats(f.type.value_type, arrow)]
        floats = [f.name for f in schema if _floats(f.type, arrow)]
        if len(lists) == 1:
            return lists
        if not lists and len(floats) == len(schema) > 0:
            return floats
        raise ValueError(
            f"pool {path!r} has columns {', '.join(f'{f.name} ({f.type})' for f in schema)}: say which hold the rows, "
            "open_pool(..., columns=...)."
        )
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, 1)
            hint = f", did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"pool {path!r} has no column {name!r}; it has {', '.join(map(repr, schema.names))}{hint}")
        kind = schema.field(name).type
        if _numbers(kind, arrow) is None or (len(names) > 1 and _is_list(kind, arrow)):
            wanted = "numbers" if len(names) > 1 else "lists of numbers, or numbers"
            raise TypeError(f"pool {path!r}: column {name!r} holds {kind}, wanted {wanted}.")
    if not names:
        raise ValueError("columns is empty, wanted the name of a column of lists, or names of columns of numbers.")
    return names


def _is_list(kind: Any, arrow: Any) -> bool:
    types = arrow.types
    return types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)


def _floats(kind: Any, arrow: Any) -> bool:
    return arrow.types.is_floating(kind)


def _numbers(kind: Any, arrow: Any) -> Any:
    """Return the type of the numbers of a column, or None if it holds others."""
    kind = kind.value_type if _is_list(kind, arrow) else kind
    return kind if _floats(kind, arrow) or arrow.types.is_integer(kind) else None


def _floating(values: Any, dtype: np.dtype) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
