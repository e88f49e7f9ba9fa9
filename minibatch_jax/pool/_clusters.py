"""Spherical k-means on a pool: centers from batches in some passes over the file, then the cluster of each row.

A batch is `CHUNKS` chunks that lie far apart in the file, so that each process holds some of them and a file sorted by
kind is mixed. The chunks are summed one by one, in the order of the file, so that every number of processes gives the
same centers.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_count, check_whole
from minibatch_jax.geometry import unit_rows
from minibatch_jax.pool._centers import nearest_center
from minibatch_jax.pool._report import PoolReport
from minibatch_jax.pool._rounds import Job, State, gather, kept_from_others, run
from minibatch_jax.pool._rows import Rows, open_rows, usable
from minibatch_jax.pool._select import progress_bar
from minibatch_jax.processes import check_same_arguments
from minibatch_jax.selection._cluster_steps import batch_sums, closest_pairs, moved_centers, reseeded_centers
from minibatch_jax.selection.spherical_k_means import cluster_examples, init_clusters

CHUNKS = 8
RESEEDED = 16  # most empty clusters that move in one batch


class PoolClusters(NamedTuple):
    """Clusters of the rows of a pool.

    Attributes:
      centers: `[K, D]` float32, unit rows.
      indices: `[N]` int32, cluster of each row; -1 for a row that is not finite in float32.
      distances: `[N]` float32, cosine distance (1 less the cosine) of the row to its center; NaN where the index is -1.
      sizes: `[K]` int32, rows of each cluster.
      mean_distances: `[K]` float32, mean of the distances of its rows; 0 for an empty one.
      examples: `[K, 2 examples]` int32, its nearest rows, nearest first, then its farthest rows, farthest first; -1
        where it has fewer.
      closest: `[K]` float32, smallest cosine distance of two of these; infinite with fewer than two. Near 0 for a
        cluster of near-duplicates.
      reseeded: how many empty clusters were moved to a far row on the way.
      dropped: number of rows that are not finite in float32.
      report: how many these are, by shard and cause, and the first of them; `print` shows it as text.
    """

    centers: np.ndarray
    indices: np.ndarray
    distances: np.ndarray
    sizes: np.ndarray
    mean_distances: np.ndarray
    examples: np.ndarray
    closest: np.ndarray
    reseeded: int
    dropped: int
    report: PoolReport


def cluster_rows(
    pool: Any,
    k: int,
    *,
    passes: int = 2,
    batch_size: int = 16384,
    examples: int = 5,
    seed: int = 0,
    state_folder: str | Path | None = None,
    progress: bool = True,
) -> PoolClusters:
    """Cluster N rows of a file by streaming spherical k-means, a batch in memory at a time.

    It is `selection.init_clusters` on a random batch, `selection.update_clusters` on all batches, `passes` times, and
    one more pass that assigns each row to the nearest center. A cluster that got no row since the start moves to the
    farthest row of a batch. O(N k D passes) time, O(batch_size D + k D + N) memory.

    If several processes run (`jax.distributed`), all make the same call on the same file; each reads its own part, and
    all get the result of a single process. This function runs on the host: do not call it inside `jit`.

    Args:
      pool: what `open_pool` opens: a file of `[N, D]` floating point (float16 is fine), a list of such shards, a data
        source, an array or memory map. Rows that are not finite in float32 do not count; `report` of the result tells
        how many, in which shard and why.
      k: number of clusters.
      passes: how often the centers see each row.
      batch_size: rows of an update; the start is drawn from as many random rows, or from k if these are more.
      examples: how many nearest and how many farthest rows of each cluster to return.
      seed: seed of the start, at least 0.
      state_folder: folder to save the state in after each batch. After a kill, the same call continues from the last
        saved one, with the same result, as `select_from_pool` does; None saves nothing.
      progress: whether the first process shows a progress bar; needs `rich`.

    Returns:
      `PoolClusters(centers, indices, distances, sizes, mean_distances, examples, closest, reseeded, dropped,
      report)`.

    Raises:
      TypeError: if the pool is not floating point or a count is not an int.
      ValueError: if a shape or number does not fit, the file is damaged or changed while it is read, no row is finite,
        `state_folder` holds another call or no round that is intact, or processes make other calls.
      RuntimeError: if another job uses `state_folder`; it names the process and the machine.
      OSError: if the pool cannot be read, or `state_folder` not be written.
      ImportError: if `progress` without `rich`.

    References:
      Sculley, Web-scale k-means clustering, WWW 2010.
      Kaddour, The MiniPile challenge for data-efficient language models, 2023 (arXiv 2304.08442).

    Examples:
      >>> import numpy as np
      >>> pool = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 0.1], [np.nan, 0.0]], np.float16)
      >>> found = cluster_rows(pool, 2, progress=False)
      >>> sorted(found.sizes.tolist()), found.indices[3].item(), found.dropped
      ([1, 2], -1, 1)
    """
    check_count("passes", passes)
    check_count("batch_size", batch_size)
    check_count("examples", examples)
    check_whole("seed", seed)
    rows = open_rows(pool, -(-int(batch_size) // CHUNKS), unit=True)
    check_count("k", k, rows.size, "the number of rows")
    call = {"method": "spherical k-means", "k": int(k), "shape": [rows.size, rows.width], "dtype": str(rows.dtype)}
    call |= {"processes": jax.process_count(), "batch_size": int(batch_size), "passes": int(passes), "seed": int(seed)}
    check_same_arguments(**call, examples=int(examples), state_folder_given=state_folder is not None)
    check_same_arguments(pool=rows.ends())
    folder = None if state_folder is None else Path(state_folder)
    job = _job(rows, int(k), int(passes), int(batch_size), int(seed), int(examples))
    with kept_from_others(folder):
        if folder is not None:
            call |= {"digest of the pool": rows.digest()}
        with progress_bar("cluster_rows", progress) as show:
            return run(job, folder, call, show)


def _job(rows: Rows, k: int, passes: int, batch_size: int, seed: int, examples: int) -> Job:
    """Make the job. Its state: centers, counts, how many were moved, rounds so far; at the end the own rows' clusters.

    A round is a batch, and the last one is the pass that assigns the rows.
    """
    batches = -(-rows.size // (rows.block_size * CHUNKS))
    total = passes * batches + 1

    def step(state: State) -> State:
        number = int(state["round"])
        found = _assign(rows, state) if number == total - 1 else _update(rows, batches, number % batches, state)
        return found | {"round": np.array(number + 1)}

    return Job(
        init=lambda: _init(rows, k, batch_size, seed),
        step=step,
        progress=lambda state: int(state["round"]) / total,
        result=lambda state: _result(rows, k, examples, state),
    )


def _init(rows: Rows, k: int, batch_size: int, seed: int) -> State:
    sample = np.random.default_rng(seed).choice(rows.size, min(rows.size, max(batch_size, k)), replace=False)
    points = rows.at(np.sort(sample))
    if not np.isfinite(points).all(axis=1).any():
        rows.report()  # raises if no other row is finite either
    found = _start(points, jax.random.key(seed), k=k)
    return {
        "centers": np.asarray(found.centers),
        "counts": np.asarray(found.counts),
        "reseeded": np.array(0),
        "round": np.array(0),
    }


def _update(rows: Rows, batches: int, number: int, state: State) -> State:
    """Update the centers with one batch: every so-many-th chunk of the file, whichever process holds it."""
    own = [chunk for chunk in range(number, batches * CHUNKS, batches) if chunk in rows.own]
    parts = [jax.tree.map(np.asarray, _sums(state["centers"], rows.chunk(chunk))) for chunk in own]
    k, width = state["centers"].shape
    most = min(RESEEDED, k, rows.block_size)
    shapes = (k, width), (k,), (most,), (most,)
    sums, counts, distances, places = (
        np.stack([part[i] for part in parts]) if parts else np.zeros((0, *shape)) for i, shape in enumerate(shapes)
    )
    places = places + np.array(own, np.int64)[:, None] * rows.block_size
    everyone = gather({"sums": sums, "counts": counts, "distances": distances, "places": places})
    sums, counts, distances, places = (
        np.concatenate([part[name] for part in everyone]) for name in ("sums", "counts", "distances", "places")
    )
    distances, places = distances.reshape(-1), places.reshape(-1).astype(np.int64)
    farthest = np.lexsort((places, -distances))[:most]
    candidates = rows.at(np.minimum(places[farthest], rows.size - 1))
    centers, new_counts, moved = _move(
        state["centers"],
        state["counts"],
        sums.sum(0, dtype=np.float64).astype(np.float32),
        counts.sum(0).astype(np.int32),
        candidates,
        distances[farthest].astype(np.float32),
    )
    return {
        "centers": np.asarray(centers),
        "counts": np.asarray(new_counts),
        "reseeded": state["reseeded"] + np.asarray(moved),
    }


def _assign(rows: Rows, state: State) -> State:
    squares, owners = nearest_center(rows, True, state["centers"])
    return state | {"squares": squares, "owners": owners}


def _result(rows: Rows, k: int, examples: int, state: State) -> PoolClusters:
    report = rows.report()
    parts = gather({"squares": state["squares"], "owners": state["owners"]})
    squares, owners = (np.concatenate([part[name] for part in parts])[: rows.size] for name in ("squares", "owners"))
    exists = np.isfinite(squares)
    indices = np.where(exists, owners, -1).astype(np.int32)
    distances = np.where(exists, squares / 2, np.nan).astype(np.float32)
    sizes, means, chosen = map(np.asarray, _examples(indices, np.sqrt(2 * distances), k=k, number=examples))
    shown = rows.at(np.maximum(chosen, 0).reshape(-1)).reshape(*chosen.shape, rows.width)
    closest = np.asarray(_closest(shown, chosen >= 0))
    return PoolClusters(
        state["centers"],
        indices,
        distances,
        sizes,
        means,
        chosen,
        closest,
        int(state["reseeded"]),
        report.dropped,
        report,
    )


@functools.partial(jax.jit, static_argnames="k")
def _start(rows, key, *, k):
    return init_clusters(rows, k, key)


@jax.jit
def _sums(centers, chunk):
    rows, exists = usable(chunk, True)
    part = batch_sums(centers, rows, exists)
    distances = jnp.where(exists, part.distances, -1)
    farthest, places = jax.lax.top_k(distances, min(RESEEDED, centers.shape[0], distances.shape[0]))
    return part.sums, part.counts, farthest, places


@jax.jit
def _move(centers, counts, sums, added, candidates, distances):
    centers, counts = moved_centers(centers, counts, sums, added)
    centers, moved = reseeded_centers(centers, counts, unit_rows(candidates), distances)
    return centers, counts, moved


@functools.partial(jax.jit, static_argnames=("k", "number"))
def _examples(indices, distances, *, k, number):
    return cluster_examples(indices, distances, k, number=number)


@jax.jit
def _closest(shown, exists):
    return closest_pairs(unit_rows(shown.reshape(-1, shown.shape[-1])).reshape(shown.shape), exists)
