"""Choose k rows of a pool on disk in one call, by one of several methods, with a progress bar."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from minibatch_jax._checks import check_count
from minibatch_jax._extras import require
from minibatch_jax.pool._methods import prepare
from minibatch_jax.pool._report import PoolReport
from minibatch_jax.pool._rounds import kept_from_others, run
from minibatch_jax.processes import check_same_arguments


class PoolSelection(NamedTuple):
    """Rows chosen from a pool.

    Attributes:
      indices: `[k]` int64, in order of choice, distinct except for SIFT; N, one past the end, where no row was left.
      weights: `[k]` float32, number of rows of the pool that each chosen row stands for: those nearest to it (facility
        location, k-center), those it was drawn for (an unbiased light-weight core-set), or 1; 0 where no row was left.
      values: `[k]` float32, one number for each chosen row: the gain in the last part (facility location), the distance
        to the rows chosen before (k-center), the variance left at the queries after the choice (SIFT), the score, of
        which the lowest are chosen (GOT-D), the distance of its gradient to those drawn before (BADGE), its score
        (uncertain) or its probability in a draw (light-weight).
      cost: mean distance of a row to the nearest chosen row in the metric, squared unless "euclidean" (facility
        location), the largest distance, never squared (k-center), the variance left at the queries (SIFT), the entropic
        cost of the transport of the whole pool to the queries (GOT-D), the mean squared distance of a gradient to the
        nearest drawn one (BADGE), the lowest score chosen (uncertain), or the mean squared distance of a row to the
        mean (light-weight).
      dropped: number of rows of the pool that neither count nor can be chosen, because they are not finite in float32.
      report: how many these are, by shard and cause, and the first of them; `print` shows it as text.
      dropped_queries: number of queries of SIFT or GOT-D that do not count, because they are not finite in float32;
        else 0.
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
    metric: str | None = None,
    queries: np.ndarray | None = None,
    noise: float | None = None,
    epsilon: float | None = None,
    logits: Any = None,
    score: str | None = None,
    weighting: str | None = None,
    chosen: np.ndarray | None = None,
    rows_per_part: int | None = None,
    seed: int | None = None,
    block_size: int = 16384,
    state_folder: str | Path | None = None,
    progress: bool = True,
) -> PoolSelection:
    """Choose k of N rows of a file, with a small part of the file in memory at a time.

    If several processes run (`jax.distributed`), all make the same call on the same file. Each process reads its own
    part, and all get the result of a single process. This function runs on the host: do not call it inside `jit`.

    - "facility_location", with `metric`, `rows_per_part`, `seed`: greedy in parts of `rows_per_part` random rows, then
      in the union of the medoids of the parts, and so on (GreeDi, like `selection.partitioned_medoids`); the last
      medoids represent a sample of the level before. O(N rows_per_part D) time, O(rows_per_part^2 + N) memory. The cost
      is a little above that of the greedy on all rows at once, which takes O(N^2 D) time.
    - "k_center", with `metric`, `chosen`: the same choice as `selection.k_center`, up to rounding; with labeled rows in
      `chosen` it is the core-set of active learning. O(N k D) time, O(block_size D + N) memory.
    - "sift", with `queries`, `noise`: the same choice as `selection.sift_indices`, up to rounding; one pass over the
      file for each of k choices. O(N k D) time, O(block_size D + N Q + D^2) memory.
    - "got_d", with `queries`, `epsilon`, `seed`: the same choice as the lowest `selection.transport_scores_in_blocks`,
      up to its tolerance of 1e-3; one pass over the file for each of some ten iterations, started from a sample of 8192
      rows. Distances are squared Euclidean ones. O(N Q (D + Q)) time for a pass, O(block_size Q + N + Q^2) memory. If
      50 passes do not suffice, a `RuntimeWarning` says so. Sums over several processes round otherwise than those of
      one.
    - "badge", with `logits`, `chosen`, `seed`: the same draws as `selection.badge_indices(seed, ...)`, up to rounding;
      the pool holds the inputs of the last layer. O(N k (C + D)) time, O(block_size (C + D) + N) memory: the gradients
      `[N, C D]` are never formed.
    - "uncertain", with `score`, `chosen`, `seed`: the k rows of which the model is least sure, in one pass; the pool
      holds logits `[N, C]`. The same choice as `selection.keep_uncertain`, up to ties. O(block_size C + N) memory.
    - "lightweight_coreset", with `weighting`, `chosen`, `seed`: k draws by `selection.lightweight_probabilities`, in
      two passes. O(N D) time, O(block_size D + N) memory.

    Args:
      pool: what `open_pool` opens: a file of `[N, D]` floating point (float16 is fine), a list of such shards, a data
        source, an array or memory map. Rows that are not finite in float32 neither count nor are chosen; `report` of
        the result tells how many, in which shard and why.
      k: how many to choose.
      method: one of the above. It takes the arguments named there and no others.
      metric: "sqeuclidean", the default, "euclidean" or "cosine"; for k-center the first two choose the same rows.
        SIFT always takes the cosine, and GOT-D the squared distance.
      queries: `[Q, D]`, floating point, for SIFT, or the targets of GOT-D. Rows that are not finite in float32 do not
        count; `dropped_queries` of the result tells how many.
      noise: variance of an observation, positive, 0.01 by default.
      epsilon: entropic regularization, as a fraction of the mean cost, positive, 0.01 by default.
      logits: `[N, C]`, what `open_pool` opens, with the logits of row i of the pool in row i.
      score: "margin", the default (breaking ties), "entropy" or "least_confidence".
      weighting: "unbiased", the default, draws with replacement, so that a row may be drawn several times and fewer
        than k rows be chosen; a row drawn c times weighs `c / (k * probability)`. "own" draws k different rows, for the
        next ones to label, and gives them weight 1.
      chosen: row numbers `[L]`, or a mask `[N]`, of rows chosen before, such as labeled ones, which are not chosen
        again; none by default. For k-center they are centers, which are neither returned nor weighed; for the other
        methods they do not count.
      rows_per_part: rows of a part, at least 2 k, 4096 by default.
      seed: seed of the shuffle into parts, of the sample, of the draws or of ties, at least 0, 0 by default.
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
      TypeError: if the pool, the logits or the queries are not floating point or a count is not an int.
      ValueError: if a shape or number does not fit, a name is unknown, the method does not take an argument or misses
        one, the file is in Fortran order, damaged or changed while it is read, shards do not fit together, no row is
        finite, `state_folder` holds another call or no round that is intact, or processes make other calls.
      RuntimeError: if another job uses `state_folder`; it names the process and the machine.
      OSError: if the pool cannot be read, or `state_folder` not be written, as when the disk is full.
      ImportError: if `progress` without `rich`, or if a package is missing that reads the files.

    References:
      Mirzasoleiman et al., Distributed submodular maximization, NeurIPS 2013 (arXiv 1411.0541).
      Gonzalez, Clustering to minimize the maximum intercluster distance, 1985.
      Sener & Savarese, Active learning for convolutional neural networks, ICLR 2018 (arXiv 1708.00489).
      Hübotter et al., ICLR 2025 (arXiv 2410.08020).
      Kang et al., ICLR 2024 (arXiv 2405.02774).
      Ash et al., ICLR 2020 (arXiv 1906.03671).
      Bachem, Lucic & Krause, KDD 2018 (arXiv 1702.08248).

    Examples:
      >>> import numpy as np
      >>> pool = np.array([[0.0], [0.1], [0.3], [5.0], [5.1], [5.3]], np.float16)
      >>> chosen = select_from_pool(pool, 2, progress=False)
      >>> chosen.indices.tolist(), chosen.weights.tolist(), chosen.dropped
      ([2, 4], [3.0, 3.0], 0)
      >>> select_from_pool(pool, 1, method="k_center", chosen=np.array([0]), progress=False).indices.tolist()
      [5]
    """
    check_count("block_size", block_size)
    given = {
        "metric": metric,
        "queries": queries,
        "noise": noise,
        "epsilon": epsilon,
        "logits": logits,
        "score": score,
        "weighting": weighting,
        "chosen": chosen,
        "rows_per_part": rows_per_part,
        "seed": seed,
    }
    rows, job, call, dropped_queries = prepare(method, pool, k, int(block_size), given)
    call |= {"method": method, "k": int(k), "shape": [rows.size, rows.width], "processes": jax.process_count()}
    call |= {"dtype": str(rows.dtype), "block_size": rows.block_size}
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
