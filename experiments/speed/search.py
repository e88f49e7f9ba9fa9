"""The ten nearest of a million rows of width 256 for each query: two-stage search on a file beside faiss.

The rows are augmented Fashion-MNIST images through a random layer, in float16 (0.5 GB on disk; 1 GB as float32). Both
compress them to 16 bytes a row, list the `shortlist` nearest by these bytes, and read the rows listed from the file:
`pool.nearest_rows`, and faiss's `IndexPQ` with NumPy's exact distances behind it. Each runs in a process of its own on
one core. scikit-learn's brute force searches a tenth of the rows in memory. The recall is the fraction of the ten
nearest rows, by all exact distances, that are found. The file is kept for the next run if `keep`.

Measured on one core of a busy machine (load 14), milliseconds of CPU time for a query, the least of three calls for 128
queries, and the recall:

                            compress   peak      shortlist 100   shortlist 300   shortlist 1000
    two-stage search        10 s       608 MiB   4.1 ms, 0.842   7.0 ms, 0.959   16.6 ms, 0.995
    faiss and NumPy         20 s       974 MiB   7.6 ms, 0.845   8.0 ms, 0.954    9.6 ms, 0.998

scikit-learn's brute force took 1.3 ms on a tenth of the rows in memory. Peaks include 174 MiB before the call, and for
faiss the mapped pages of the file. With a long short list ours is slower: XLA's top-k is what takes the time.
"""

import os
import shutil
from pathlib import Path

import numpy as np

from experiments.speed import _search_run
from experiments.speed._pool_data import write_pool
from experiments.speed._timing import in_fresh_process

BLOCK = 50_000
K = _search_run.K


def true_neighbors(pool: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The nearest rows `[Q, K]` by all exact distances, a block of rows at a time."""
    best, rows = np.full((len(queries), K), np.inf, np.float32), np.zeros((len(queries), K), np.int64)
    for start in range(0, len(pool), BLOCK):
        block = pool[start : start + BLOCK].astype(np.float32)
        squares = (block**2).sum(1)[None] - 2 * queries @ block.T
        places = np.argpartition(squares, K, axis=1)[:, :K]
        best = np.append(best, np.take_along_axis(squares, places, axis=1), 1)
        rows = np.append(rows, start + places, 1)
        order = np.argsort(best, axis=1)[:, :K]
        best, rows = np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return rows


def main(
    rows: int = 1_000_000,
    width: int = 256,
    queries: int = 128,
    shortlists: tuple[int, ...] = (100, 300, 1000),
    folder: str = "/tmp/minibatch_jax_search",
    keep: bool = False,
) -> None:
    """Write the rows, search by each library, print CPU time, peak memory and recall, delete the rows."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"rows{rows}x{width}.npy"
    if not file.exists():
        write_pool(place / "partial.npy", rows + queries, width)
        (place / "partial.npy").rename(file)
    data = np.load(file, mmap_mode="r")
    pool, asked = data[:-queries], data[-queries:].astype(np.float32)
    true = true_neighbors(pool, asked)
    print(f"{rows} x {width} float16, {queries} queries, {K} neighbors, load average {os.getloadavg()[0]:.1f}")
    for method in ("ours", "faiss"):
        found = in_fresh_process(_search_run.__name__, method, file, queries, *shortlists)
        print(
            f"\n{method}: compressed in {found['build_seconds']:.0f} s of one core, peak {found['peak_mib']:.0f} MiB "
            f"(before {found['start_mib']:.0f})"
        )
        for shortlist in shortlists:
            result = found["searches"][str(shortlist)]
            share = np.mean([len(set(a) & set(b)) / K for a, b in zip(result["rows"], true.tolist())])
            times = ", ".join(f"{t:.2f}" for t in sorted(result["milliseconds"]))
            print(f"  shortlist {shortlist:5d}: recall {share:.3f}, ms of CPU for a query {times}")
    brute = in_fresh_process(_search_run.__name__, "sklearn", file, queries, 0)
    times = ", ".join(f"{t:.2f}" for t in sorted(brute["searches"]["0"]["milliseconds"]))
    print(f"\nscikit-learn, brute force on {rows // 10} rows: ms of CPU for a query {times}")
    if not keep:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
