"""Cleaning a pool of a million: k-means and quotas of embeddings, near-duplicates of token rows, in minutes and MiB.

Embeddings `[10^6, 256]` float16 around random directions on disk; 220 clusters, as MiniPile has. `cluster_rows` beside
faiss's spherical k-means, with as many passes over as many rows, and scikit-learn's `MiniBatchKMeans`, whose distances
are Euclidean. Token rows `[10^6, 32]`, half of them copies of others with one token changed: signatures in parts, and
the search among all of them. Each runs in a process of its own, on one core; the peak memory is that of the process.

Measured once, on one core of a busy machine; before each call a process has 174 MiB:

    cluster_rows, and a quota   0.25 CPU minutes    553 MiB   mean cosine distance 0.319, 1.6 % of rows in the largest
    faiss                       0.15 CPU minutes   2147 MiB   0.337, 2.2 %
    scikit-learn                0.28 CPU minutes   2279 MiB   0.311, 2.3 %
    minhash                     0.25 CPU minutes   1195 MiB   recall 0.993 of the copies, no other row dropped

The peers hold all rows in memory, in float32. Of the minutes of `minhash`, half are the search.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.speed._pool_run import peak_mib
from experiments.speed._timing import in_fresh_process

CLUSTERS, PASSES, BATCH = 220, 2, 16384
LENGTH, CHANGED = 32, 1
BLOCK = 50_000


def write_embeddings(path: Path, rows: int, width: int, seed: int = 0) -> None:
    """Rows around 300 random directions, a hundred rows in `BLOCK` around each of a few rare ones, of any length."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(300, width)).astype(np.float32)
    sizes = rng.dirichlet(np.full(300, 0.5))
    pool = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        kinds = rng.choice(300, count, p=sizes)
        pool[start : start + count] = directions[kinds] + rng.standard_normal((count, width), np.float32)
    pool.flush()


def write_tokens(path: Path, rows: int, seed: int = 0) -> None:
    """Rows of random tokens; the second half are the first half in another order, with `CHANGED` tokens changed."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 50_000, (rows // 2, LENGTH)).astype(np.int32)
    copies = first[rng.permutation(rows // 2)]
    for _ in range(CHANGED):
        copies[np.arange(len(copies)), rng.integers(0, LENGTH, len(copies))] = 50_001
    np.save(path, np.concatenate([first, copies]))


def ours(folder: Path) -> dict[str, float]:
    """`cluster_rows` and a quota of a tenth."""
    import jax
    import jax.numpy as jnp

    from minibatch_jax.pool import cluster_rows
    from minibatch_jax.selection import cluster_quotas, quota_mask

    found = cluster_rows(folder / "pool.npy", CLUSTERS, passes=PASSES, batch_size=BATCH, progress=False)
    middle = time.perf_counter()
    quotas = cluster_quotas(jnp.asarray(found.sizes), len(found.indices) // 10)
    mask = jax.block_until_ready(quota_mask(0, jnp.asarray(found.indices), quotas))
    return {
        "mean distance": float(np.nanmean(found.distances)),
        "largest share": float(found.sizes.max() / found.sizes.sum()),
        "quota seconds": time.perf_counter() - middle,
        "rows by quota": float(mask.sum()),
    }


def faiss_k_means(folder: Path) -> dict[str, float]:
    """Lloyd's iterations on all rows in memory."""
    import faiss

    faiss.omp_set_num_threads(1)
    rows = unit(np.load(folder / "pool.npy"))
    means = faiss.Kmeans(rows.shape[1], CLUSTERS, niter=PASSES, spherical=True, max_points_per_centroid=1 << 30)
    means.train(rows)
    cosines, owners = means.index.search(rows, 1)
    return {"mean distance": float(1 - cosines.mean()), "largest share": largest_share(owners[:, 0])}


def scikit_learn(folder: Path) -> dict[str, float]:
    """Mini-batches in order, in as many passes."""
    from sklearn.cluster import MiniBatchKMeans

    rows = unit(np.load(folder / "pool.npy"))
    once: Any = 1
    means: Any = MiniBatchKMeans(CLUSTERS, batch_size=BATCH, n_init=once, random_state=0, reassignment_ratio=0.0)
    for _ in range(PASSES):
        for start in range(0, len(rows), BATCH):
            means.partial_fit(rows[start : start + BATCH])
    owners = means.predict(rows)
    centers = unit(means.cluster_centers_)
    cosines = np.concatenate(
        [np.sum(rows[s : s + BATCH] * centers[owners[s : s + BATCH]], 1) for s in range(0, len(rows), BATCH)]
    )
    return {"mean distance": float(1 - cosines.mean()), "largest share": largest_share(owners)}


def minhash(folder: Path) -> dict[str, float]:
    """Signatures of 64 hash functions in parts, then the search."""
    import jax
    import jax.numpy as jnp

    from minibatch_jax.selection import minhash_signatures, near_duplicates

    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    signatures = np.empty((len(tokens), 64), np.uint32)
    program = jax.jit(lambda part: minhash_signatures(part, num_hashes=64, ngram=3))
    for start in range(0, len(tokens), BLOCK):
        signatures[start : start + BLOCK] = program(np.asarray(tokens[start : start + BLOCK]))
    middle = time.perf_counter(), time.process_time()
    keep = np.asarray(jax.jit(lambda s: near_duplicates(s, 0.7).keep)(jnp.asarray(signatures)))
    half = len(tokens) // 2
    return {
        "search seconds": time.perf_counter() - middle[0],
        "search CPU seconds": time.process_time() - middle[1],
        "recall": float(1 - keep[half:].mean()),
        "wrongly dropped": float(1 - keep[:half].mean()),
    }


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1 in float32."""
    rows = rows.astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def largest_share(owners: np.ndarray) -> float:
    """Share of the rows in the largest cluster."""
    return float(np.bincount(owners).max() / len(owners))


CALLS: dict[str, Callable[[Path], dict[str, float]]] = {
    function.__name__: function for function in (ours, faiss_k_means, scikit_learn, minhash)
}


def main(rows: int = 1_000_000, width: int = 256, folder: str = "/tmp/minibatch_jax_clean") -> None:
    """Write both pools, run each call in a process of its own, print, delete the pools."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_embeddings(place / "pool.npy", rows, width)
    write_tokens(place / "tokens.npy", rows)
    for name in CALLS:
        found = in_fresh_process("experiments.speed.clean", name, place)
        wall, cpu, peak, start = (found.pop(key) for key in ("wall", "cpu", "peak", "start"))
        told = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
        print(
            f"{name:<20} {cpu / 60:6.2f} CPU minutes ({wall / 60:.2f} of the clock), peak {peak:.0f} MiB "
            f"(before {start:.0f}): {told}",
            flush=True,
        )
    shutil.rmtree(place)


def one(name: str, folder: Path) -> None:
    """Run one call and print what it took as JSON."""
    before, started, cpu = peak_mib(), time.perf_counter(), time.process_time()
    found = CALLS[name](folder)
    seconds = {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu}
    print(json.dumps(found | seconds | {"peak": peak_mib(), "start": before}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
