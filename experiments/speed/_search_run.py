"""One library's search in a process of its own, so that its peak memory is its own.

`python -m experiments.speed._search_run METHOD FILE QUERIES SHORTLIST...` prints CPU seconds, peak MiB and the rows
found as JSON. The last rows of the file are the queries.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.speed._pool_run import peak_mib
from minibatch_jax.pool import compress_rows, nearest_rows

K = 10
REPEATS = 3
BLOCK = 16384
Search = Callable[[np.ndarray, int], np.ndarray]


def ours(pool: np.ndarray) -> Search:
    """Compressed rows by `compress_rows`, exact ones read by `nearest_rows`."""
    code = compress_rows(pool, progress=False)
    return lambda queries, shortlist: nearest_rows(pool, queries, K, code, shortlist=shortlist).indices


def faiss(pool: np.ndarray) -> Search:
    """Compressed rows by `IndexPQ`, exact distances to the rows listed by NumPy."""
    import faiss as peer

    peer.omp_set_num_threads(1)
    index: Any = peer.IndexPQ(pool.shape[1], 16, 8)
    seen = np.sort(np.random.default_rng(0).choice(len(pool), BLOCK, replace=False))
    index.train(pool[seen].astype(np.float32))
    for start in range(0, len(pool), BLOCK):
        index.add(pool[start : start + BLOCK].astype(np.float32))

    def search(queries, shortlist):
        listed = np.sort(index.search(queries, shortlist)[1], axis=1)
        chosen = []
        for query, rows in zip(queries, listed):
            squares = ((pool[rows].astype(np.float32) - query) ** 2).sum(1)
            chosen.append(rows[np.argsort(squares, kind="stable")[:K]])
        return np.array(chosen)

    return search


def sklearn(pool: np.ndarray) -> Search:
    """Brute force on a tenth of the rows, in memory."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(pool[::10].astype(np.float32))
    return lambda queries, shortlist: index.kneighbors(queries, return_distance=False)


def main(method: str, file: str, count: int, *shortlists: int) -> None:
    data = np.load(file, mmap_mode="r")
    pool, queries = data[:-count], data[-count:].astype(np.float32)
    before, start = peak_mib(), time.process_time()
    search = {"ours": ours, "faiss": faiss, "sklearn": sklearn}[method](pool)
    found = {"build_seconds": time.process_time() - start, "start_mib": before, "searches": {}}
    for shortlist in shortlists:
        rows, times = search(queries, shortlist), []
        for _ in range(REPEATS):
            start = time.process_time()
            search(queries, shortlist)
            times.append(1e3 * (time.process_time() - start) / count)
        found["searches"][shortlist] = {"rows": rows.tolist(), "milliseconds": times}
    print(json.dumps(found | {"peak_mib": peak_mib()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
