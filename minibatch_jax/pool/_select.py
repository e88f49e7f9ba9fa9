"""Choose k rows of a pool on disk in one call, by facility location, k-center or SIFT, with a progress bar."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from minibatch_jax._checks import check_choice, check_count, check_number, check_shape, check_whole
from minibatch_jax._extras import require
from minibatch_jax.pool._centers import centers_job
from minibatch_jax.pool._medoids import medoids_job
from minibatch_jax.pool._report import PoolReport
from minibatch_jax.pool._rounds import kept_from_others, run
from minibatch_jax.pool._rows import open_rows
from minibatch_jax.pool._sift import sift_job
from minibatch_jax.processes import check_same_arguments

METHODS = ("facility_location", "k_center", "sift")
METRICS = ("sqeuclidean", "euclidean", "cosine")


class PoolSelection(NamedTuple):
    """Rows chosen from a pool.

    Attributes:
      indices: `[k]` int64, in order of choice, distinct except for SIFT; N, one past the end, where no row was left.
      weights: `[k]` float32, number of rows of the pool that are nearest to each chosen row, or 1 for SIFT; 0 where no
        row was left.
      values: `[k]` float32, one number for each chosen row: the gain in the last part (facility location), the distance
        to the rows chosen before (k-center), or the variance left at the queries after the choice (SIFT).
      cost: mean distance of a row to the nearest chosen row in the metric, squared unless "euclidean" (facility
        location), the largest distance (k-center), or the variance left at the queries (SIFT).
      dropped: number of rows of the pool that neither count nor can be chosen, because they are not finite in float32.
      report: which rows these are, by shard and cause; `print` shows it as text.
      dropped_queries: number of queries of SIFT that do not count, because they are not finite in float32; else 0.
    """

    indices: np.ndarray
    weights: np.ndarray
    values: np.ndarray
    cost: float
    dropped: int
    report: PoolReport
    dropped_queries: int


def select_from_pool(
    pool: Any,
    k: int,
    *,
    method: str = "facility_location",
    metric: str = "sqeuclidean",
    queries: np.ndarray | None = None,
    noise: float = 0.01,
    rows_per_part: int = 4096,
    seed: int = 0,
    block_size: int = 16384,
    state_folder: str | Path | None = None,
    progress: bool = True,
) -> PoolSelection:
    """Choose k of N rows of a file, with a small part of the file in memory at a time.

    If several processes run (`jax.distributed`), all make the same call on the same file. Each process reads its own
    part, and all get the result of a single process. This function runs on the host: do not call it inside `jit`.

    - "facility_location": greedy in parts of `rows_per_part` random rows, then in the union of the medoids of the
      parts, and so on (GreeDi, like `selection.partitioned_medoids`); the last medoids represent a sample of the level
      before. O(N rows_per_part D) time, O(rows_per_part^2 + N) memory. The cost is a little above that of the greedy on
      all rows at once, which takes O(N^2 D) time.
    - "k_center": the same choice as `selection.k_center`, up to rounding. O(N k D) time, O(block_size D + N) memory.
    - "sift": the same choice as `selection.sift_indices`, up to rounding; one pass over the file for each of k choices.
      O(N k D) time, O(block_size D + N Q + D^2) memory.

    Args:
      pool: what `open_pool` opens: a file of `[N, D]` floating point (float16 is fine), a list of such shards, a data
        source, an array or memory map. Rows that are not finite in float32 neither count nor are chosen; `report` of
        the result tells how many, in which shard and why.
      k: how many to choose.
      method: "facility_location", "k_center" or "sift".
      metric: "sqeuclidean", "euclidean" or "cosine"; for k-center the first two choose the same rows, and SIFT always
        takes the cosine.
      queries: `[Q, D]`, floating point, for SIFT only. Rows that are not finite in float32 do not count;
        `dropped_queries` of the result tells how many.
      noise: variance of an observation, positive, for SIFT only.
      rows_per_part: rows of a part, at least 2 k, for facility location only.
      seed: seed of the shuffle into parts, at least 0, for facility location only.
      block_size: rows to read at a time.
      state_folder: folder to save the state in after each round (a part, or a pass over the file). After a kill, the
        same call continues from the last saved round, with the same result; a finished call returns at once. If that
        round is damaged, it continues from the one before, with a `RuntimeWarning`. A digest of all rows tells whether
        the pool is the same, which takes one more pass over the file. A lock keeps other jobs out of the folder, except
        on Windows and where the file system has no `flock`. None saves nothing.
      progress: whether the first process shows a progress bar; needs `rich`.

    Returns:
      `PoolSelection(indices, weights, values, cost, dropped, report, dropped_queries)`.

    Raises:
      TypeError: if the pool or the queries are not floating point or a count is not an int.
      ValueError: if a shape or number does not fit, a name is unknown, the file is in Fortran order, damaged or changed
        while it is read, no row is finite, `state_folder` holds another call or no round that is intact, or processes
        make other calls.
      RuntimeError: if another job uses `state_folder`; it names the process and the machine.
      OSError: if the pool cannot be read, or `state_folder` not be written, as when the disk is full.
      ImportError: if `progress` without `rich`.

    References:
      Mirzasoleiman et al., Distributed submodular maximization, NeurIPS 2013 (arXiv 1411.0541).
      Gonzalez, Clustering to minimize the maximum intercluster distance, 1985.
      Hübotter et al., ICLR 2025 (arXiv 2410.08020).

    Examples:
      >>> import numpy as np
      >>> pool = np.array([[0.0], [0.1], [0.3], [5.0], [5.1], [5.3]], np.float16)
      >>> chosen = select_from_pool(pool, 2, progress=False)
      >>> chosen.indices.tolist(), chosen.weights.tolist(), chosen.dropped
      ([2, 4], [3.0, 3.0], 0)
    """
    check_choice("method", method, METHODS)
    check_choice("metric", metric, METRICS)
    check_count("block_size", block_size)
    check_whole("seed", seed)
    check_number("noise", noise, 0, open_low=True)
    rows = open_rows(pool, block_size, unit=method == "sift" or metric == "cosine")
    check_count("k", k, None if method == "sift" else rows.size, "the number of rows")
    k = int(k)
    call = {"method": method, "k": k, "shape": [rows.size, rows.width], "processes": jax.process_count()}
    call |= {"dtype": str(rows.dtype), "block_size": rows.block_size}
    dropped_queries = 0
    if method == "sift":
        targets, dropped_queries = _queries(queries, rows.width)
        call |= {"noise": float(noise), "queries": hashlib.sha256(targets.tobytes()).hexdigest()}
        job = sift_job(rows, k, targets, float(noise))
    elif method == "k_center":
        call |= {"unit": metric == "cosine"}
        job = centers_job(rows, k, metric == "cosine")
    else:
        check_count("rows_per_part", rows_per_part)
        if 2 * k > rows_per_part:
            raise ValueError(
                f"rows_per_part is {rows_per_part}, wanted at least 2 k = {2 * k}, so that a part leaves out half."
            )
        call |= {"metric": metric, "rows_per_part": int(rows_per_part), "seed": int(seed)}
        job = medoids_job(rows, k, metric, int(rows_per_part), int(seed))
    check_same_arguments(**call, state_folder_given=state_folder is not None)
    check_same_arguments(pool=rows.ends())
    folder = None if state_folder is None else Path(state_folder)
    with kept_from_others(folder):
        if folder is not None:
            call |= {"digest of the pool": rows.digest()}
        with progress_bar(f"select_from_pool, {method}", progress) as show:
            indices, weights, values, cost = run(job, folder, call, show)
        report = rows.report()
    return PoolSelection(indices, weights, values, cost, report.dropped, report, dropped_queries)


def _queries(queries: Any, width: int) -> tuple[np.ndarray, int]:
    """Return the queries that are finite in float32, and how many are not."""
    if queries is None:
        raise ValueError("queries is None, wanted [Q, D] for the method 'sift'.")
    check_shape("queries", queries, (None, width))
    queries = np.asarray(queries)
    if not np.issubdtype(queries.dtype, np.floating):
        raise TypeError(f"queries has dtype {queries.dtype}, wanted a floating-point dtype.")
    with np.errstate(over="ignore"):
        queries = queries.astype(np.float32)
    finite = queries[np.isfinite(queries).all(1)]
    if not len(finite):
        raise ValueError(f"queries has no row of {len(queries)} that is finite in float32, wanted one or more.")
    return finite, len(queries) - len(finite)


@contextlib.contextmanager
def progress_bar(title: str, progress: bool) -> Iterator[Callable[[float], None]]:
    """Show a bar on the first process, if wanted; what it yields is called with the fraction that is done."""
    if not progress or jax.process_index() > 0:
        yield lambda share: None
        return
    bars = require("rich.progress", "pool")
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share: bar.update(task, completed=share)
