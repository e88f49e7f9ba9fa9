"""Rows from files of several kinds, from shards and from data sources, behind one face: a length and rows by number."""

import glob
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minibatch_jax._checks import check_shape
from minibatch_jax.pool._files import NpyFile, rows_of_array
from minibatch_jax.pool._parquet import ParquetRows
from minibatch_jax.pool._records import ArrayRecords, RecordRows, raw_row

KINDS = (".npy", ".parquet", ".array_record")
SAVED = 16384  # rows that are written at a time
WANTED = "a path, a list of paths, an array, or a source with a length and rows by number"


class Pool:
    """Rows `[N, D]` that stay on disk until they are asked for. `open_pool` makes it.

    `pool[rows]` reads rows by a number, a slice or an array of numbers, in the order asked for.

    Attributes:
      shape: N, D.
      dtype: of the rows, floating point.
      shards: names of the shards, in their order: paths, or what else the pool was made of.
      sizes: `[S]` int64, rows of each shard.
    """

    def __init__(self, shards: list[Any], names: list[str]):
        self._shards = shards
        self.shards = tuple(names)
        self.sizes = np.array([shard.shape[0] for shard in shards], np.int64)
        self._edges = np.cumsum([0, *self.sizes])
        self.shape, self.dtype = (int(self._edges[-1]), int(shards[0].shape[1])), np.dtype(shards[0].dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Pool({self.shape[0]} rows of {self.shape[1]}, {self.dtype}, {self.name})"

    @property
    def name(self) -> str:
        """What errors call it."""
        if len(self.shards) == 1:
            return self.shards[0]
        return f"of {len(self.shards)} shards, {self.shards[0]} to {self.shards[-1]}"

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._stretch(start, max(start, stop))
            rows = np.arange(start, stop, step)
        numbers = np.asarray(rows)
        if numbers.dtype == bool or not (np.issubdtype(numbers.dtype, np.integer) or numbers.size == 0):
            raise TypeError(f"rows has dtype {numbers.dtype}, wanted row numbers or a slice.")
        if numbers.size and (numbers.min() < -len(self) or numbers.max() >= len(self)):
            raise IndexError(f"rows holds {numbers.min()} to {numbers.max()}, the pool has {len(self)} rows.")
        flat = np.where(numbers < 0, numbers + len(self), numbers).astype(np.int64).reshape(-1)
        order = np.argsort(flat, kind="stable")
        ascending, found = flat[order], np.empty((len(flat), self.shape[1]), self.dtype)
        ends = np.searchsorted(ascending, self._edges)
        for shard, first, start, stop in zip(self._shards, self._edges, ends, ends[1:]):
            if start < stop:
                found[order[start:stop]] = shard[ascending[start:stop] - first]
        return found.reshape(*numbers.shape, self.shape[1])

    def shard_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the place of the shard that holds each row.

        Args:
          rows: `[n]` integers, such as `chosen.indices`.

        Returns:
          `[n]` int64, places in `shards`.
        """
        return np.searchsorted(self._edges, rows, side="right") - 1

    def save(self, path: str | Path) -> None:
        """Write all rows to a `.npy` file, in which rows at random places are found fast. It takes one pass.

        Args:
          path: file to write. It appears when it is complete.
        """
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        try:
            with partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, len(self), SAVED):
                    np.ascontiguousarray(self[start : start + SAVED]).tofile(file)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def damaged(self) -> dict[int, str]:
        """Return why no row could be made of a record, by row, for the records that were read."""
        found = {}
        for shard, first in zip(self._shards, self._edges):
            found |= {int(first) + number: why for number, why in getattr(shard, "damaged", {}).items()}
        return found

    def _stretch(self, start: int, stop: int) -> np.ndarray:
        parts = []
        for shard, first, end in zip(self._shards, self._edges, self._edges[1:]):
            low, high = max(start, int(first)), min(stop, int(end))
            if low < high:
                parts.append(np.asarray(shard[low - int(first) : high - int(first)]))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([np.empty((0, self.shape[1]), self.dtype), *parts])


def open_pool(
    data: Any, *, columns: str | Sequence[str] | None = None, row: str | Callable[[Any], Any] | None = None
) -> Pool:
    """Open rows on disk for `select_from_pool` and `assign_rows`, which open what needs no `columns` or `row` alone.

    - A `.npy` file of `[N, D]`.
    - A `.parquet` file (extra `parquet`) with a column of lists of one length, or a column for each entry of a row.
      Integers become float32; null becomes NaN. Rows are decoded in order: those at random places take a pass.
    - An `.array_record` file (extra `array_record`) whose records are float32 rows as bytes, or what `row` decodes.
    - A data source with `len` and `source[i]` (and `source.__getitems__` if it has one), such as one of grain or tfds.
    - An array or a memory map.
    - Shards: a list of any of these, opened ones too, in the order given; or a folder, or a pattern such as
      `rows-*.npy`, of files of one kind in the order of their names as text, so that "rows-10" comes before "rows-9".
      All have one width and one dtype.

    Args:
      data: path, list, folder, pattern, source or array.
      columns: of parquet: the column of lists, or the columns of numbers. By default the only column of lists, or
        all columns if all are floating point.
      row: of array_record and sources: the key of a record that holds the row `[D]`, or a function of the record. A
        record that it fails on counts as damaged: it is a row of NaN.

    Returns:
      The pool: `len(pool)`, `pool.shape`, `pool.dtype`, and `pool[numbers]`, which reads.

    Raises:
      TypeError: if rows are not floating point, or `data` is none of these.
      ValueError: if a file is damaged or holds no row, shards do not fit together, or a column does not exist.
      OSError: if a file is missing or cannot be read.
      ImportError: if a package is missing that reads the files.

    Examples:
      >>> class Source:
      ...     def __len__(self):
      ...         return 3
      ...
      ...     def __getitem__(self, i):
      ...         return {"id": i, "embedding": np.full(2, i, np.float32)}
      >>> pool = open_pool([Source(), Source()], row="embedding")
      >>> pool.shape, pool[[4, 2]].tolist()
      ((6, 2), [[1.0, 1.0], [2.0, 2.0]])
    """
    return named_pool("pool", data, columns, row)


def named_pool(name: str, data: Any, columns: Any = None, row: Any = None) -> Pool:
    """Open a pool that errors call by the name of an argument."""
    if isinstance(data, Pool):
        return data
    several = _listed(name, data)
    pieces = [data] if several is None else several
    shards, names = [], []
    for place, piece in enumerate(pieces):
        if isinstance(piece, Pool):
            shards.extend(piece._shards)
            names.extend(piece.shards)
            continue
        called = f"{name}[{place}]" if isinstance(data, list | tuple) else name
        shard, shown = _shard(called, piece, columns, row)
        shards.append(shard)
        names.append(shown)
    for shard, shown in zip(shards[1:], names[1:]):
        given, wanted = (f"width {s.shape[1]} and dtype {s.dtype}" for s in (shard, shards[0]))
        if given != wanted:
            raise ValueError(
                f"{name}: shard {shown} has {given}, but {names[0]} has {wanted}; wanted the same in all. "
                "Leave it out, or write it again like the others."
            )
    return Pool(shards, names)


def _listed(name: str, data: Any) -> list[Any] | None:
    """Return the shards of a list, a folder or a pattern, None for anything else."""
    if isinstance(data, list | tuple):
        if not data:
            raise ValueError(f"{name} is an empty list, wanted at least one shard.")
        return list(data)
    if not isinstance(data, str | os.PathLike):
        return None
    path = Path(data)
    if path.is_dir():
        found = sorted(str(p) for p in path.iterdir() if _kind(p) and not p.name.startswith("."))
        kinds = sorted({_kind(p) for p in found})
        if not found:
            raise ValueError(f"{name}: folder {str(path)!r} has no file of {', '.join(KINDS)}.")
        if len(kinds) > 1:
            raise ValueError(
                f"{name}: folder {str(path)!r} has files of {', '.join(kinds)}, wanted one kind; give a list of paths."
            )
        return _complete(name, found)
    if not path.exists() and glob.has_magic(str(path)):
        found = sorted(glob.glob(str(path)))
        if not found:
            raise FileNotFoundError(f"{name}: no file matches {str(path)!r}.")
        return _complete(name, found)
    return None


def _complete(name: str, paths: list[str]) -> list[str]:
    """Return the paths, unless one is missing of those that number themselves, as in `rows-00001-of-00002.parquet`."""
    there = {match.groups(): path for path in paths if (match := re.fullmatch(r"(.*)-(\d+)-of-(\d+)(.*)", path))}
    for (start, number, total, end), path in there.items():
        for other in range(int(total)):
            if (start, f"{other:0{len(number)}}", total, end) not in there:
                raise FileNotFoundError(
                    f"{name}: {path!r} is one of {int(total)} shards, but number {other} is missing. Bring it back, or "
                    "give a list of the shards to read."
                )
    return paths


def _kind(path: str | Path) -> str:
    """Return the kind of a file by its name, such as `rows.array_record-00000-of-00002` of tfds; empty if unknown."""
    name = Path(path).name
    return next((kind for kind in KINDS if name.endswith(kind) or f"{kind}-" in name), "")


def _shard(name: str, data: Any, columns: Any, row: Any) -> tuple[Any, str]:
    """Open one file, array or source; return it and its name."""
    if isinstance(data, str | os.PathLike):
        path = Path(data)
        if not path.exists():
            raise FileNotFoundError(2, f"{name} has no file of this name, wanted one that exists", str(path))
        kind, shown = _kind(path), repr(str(path))
        called = f"{name} {shown}"
        if columns is not None and kind != ".parquet":
            raise ValueError(f"columns is given, but {shown} is no parquet file.")
        if row is not None and kind != ".array_record":
            raise ValueError(f"row is given, but {shown} is neither an array_record file nor a source.")
        if kind == ".parquet":
            return _checked(called, ParquetRows(path, columns)), shown
        if kind == ".array_record":
            records = RecordRows(ArrayRecords(path), raw_row if row is None else row, called)
            return _checked(called, records), shown
        return _checked(called, NpyFile(path)), shown
    if hasattr(data, "dtype") and hasattr(data, "shape"):
        return _checked(name, rows_of_array(data)), f"of shape {list(data.shape)}"
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, list | tuple | dict | bytes):
        shown = f"{type(data).__name__} of {len(data)} records"
        called = f"{name}, {shown}"
        return _checked(called, RecordRows(data, row, called)), shown
    raise TypeError(f"{name} is a {type(data).__name__}, wanted {WANTED}.")


def _checked(name: str, rows: Any) -> Any:
    try:
        dtype = np.dtype(rows.dtype)
    except TypeError:
        dtype = None
    if dtype is None or not np.issubdtype(dtype, np.floating) or not dtype.isnative:
        raise TypeError(
            f"{name} has dtype {rows.dtype}, wanted a floating-point dtype in the byte order of this machine."
        )
    if len(rows.shape) == 2 and rows.shape[0] == 0:
        raise ValueError(f"{name} has no rows. Leave it out, or write it again.")
    check_shape(name, rows, (None, None))
    return rows
