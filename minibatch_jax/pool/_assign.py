"""Which center is nearest to each row of a pool on disk, in one pass over the file."""

from typing import Any, NamedTuple

import numpy as np

from minibatch_jax._checks import check_choice, check_count, check_shape
from minibatch_jax.pool._centers import nearest_center
from minibatch_jax.pool._report import PoolReport
from minibatch_jax.pool._rounds import gather
from minibatch_jax.pool._rows import open_rows
from minibatch_jax.processes import check_same_arguments

METRICS = ("euclidean", "cosine")


class PoolAssignment(NamedTuple):
    """The nearest center of each row of a pool.

    Attributes:
      indices: `[N]` int32, number of the nearest center; -1 for a row that is not finite in float32.
      distances: `[N]` float32, Euclidean distance to this center, up to rounding; NaN where the number is -1.
      dropped: number of rows that are not finite in float32.
      report: how many these are, by shard and cause, and the first of them; `print` shows it as text.
    """

    indices: np.ndarray
    distances: np.ndarray
    dropped: int
    report: PoolReport


def assign_rows(
    pool: Any, centers: np.ndarray, *, metric: str = "euclidean", block_size: int = 16384
) -> PoolAssignment:
    """Return the nearest center of each of N rows of a file, read a block at a time in one pass; ties go to the first.

    It is `selection.assign_rows` for rows that exceed memory. If several processes run (`jax.distributed`), all make
    the same call on the same file; each reads its own part, and all get the whole result. This function runs on the
    host: do not call it inside `jit`.

    Args:
      pool: what `open_pool` opens: a file of `[N, D]` floating point (float16 is fine), shards, a data source, an
        array or memory map.
      centers: `[k, D]`, floating point, such as `pool[chosen.indices]`. A center that is not finite is nearest to none.
      metric: "euclidean", or "cosine" for the Euclidean distance between rows scaled to unit length.
      block_size: rows to read at a time.

    Returns:
      `PoolAssignment(indices, distances, dropped, report)`.

    Raises:
      TypeError: if the pool or the centers are not floating point or a count is not an int.
      ValueError: if a shape does not fit, the metric is unknown, no row or no center is finite, the file is in Fortran
        order, damaged or changed while it is read, or processes make other calls.
      OSError: if the pool cannot be read.

    Examples:
      >>> import numpy as np
      >>> pool = np.array([[0.0], [9.0], [np.nan], [5.0]], np.float16)
      >>> found = assign_rows(pool, np.array([[1.0], [9.0]]))
      >>> found.indices.tolist(), found.distances.tolist(), found.dropped
      ([0, 1, -1, 0], [1.0, 0.0, nan, 4.0], 1)
    """
    check_choice("metric", metric, METRICS)
    check_count("block_size", block_size)
    unit = metric == "cosine"
    rows = open_rows(pool, block_size, unit=unit)
    points: Any = np.asarray(centers)
    check_shape("centers", points, (None, rows.width))
    if not np.issubdtype(points.dtype, np.floating):
        raise TypeError(f"centers has dtype {points.dtype}, wanted a floating-point dtype.")
    points = points.astype(np.float32)
    usable = np.flatnonzero(np.isfinite(points).all(axis=1))
    if not len(usable):
        raise ValueError(f"centers has no row of {len(points)} that is finite in float32, wanted one or more.")
    points = points[usable]
    check_same_arguments(shape=[rows.size, rows.width], metric=metric, centers=points.tobytes(), pool=rows.ends())
    if unit:
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        points = points / np.where(lengths > 0, lengths, 1)
    squares, owners = nearest_center(rows, unit, points)
    report = rows.report()
    parts = gather({"squares": squares, "owners": owners})
    squares, owners = (np.concatenate([part[name] for part in parts])[: rows.size] for name in ("squares", "owners"))
    exists = np.isfinite(squares)
    indices = np.where(exists, usable[owners], -1).astype(np.int32)
    distances = np.where(exists, np.sqrt(np.maximum(np.where(exists, squares, 0), 0)), np.nan).astype(np.float32)
    return PoolAssignment(indices, distances, report.dropped, report)
