"""A million embeddings of width 256 on disk: minutes, peak memory and loss of `select_from_pool`, method by method.

The rows are augmented Fashion-MNIST images through a random layer, in float16 (0.5 GB on disk; 1 GB as float32). Each
method runs in a process of its own. What facility location in parts loses is measured where the greedy on all rows can
be run: on a random subset, with parts as small against it as on the whole; k-center and SIFT must choose what the
functions on arrays choose. The folder keeps the state: a killed run goes on; it is deleted at the end unless `keep`.

Measured once on one core of a busy machine (load 6 to 8), before files were read instead of mapped (so that the peaks
count mapped pages of the file) and before the last stage of facility location represented the finer level:

    k-center             500 rows   0.8 minutes   801 MiB   largest distance 4.94 (random rows 5.6 to 5.7 on a sample)
    SIFT                 100 rows   1.9 minutes   647 MiB
    facility location    500 rows   5.1 minutes   886 MiB   mean squared distance 4.78 (random rows 5.65 to 5.72)

The rows to label next, 1,000 of those without the 100 labels that are there, with logits of 20 classes in a second
file; measured once on one core of a busy machine, so that only the minutes of the core count:

    BADGE              1,000 rows   0.8 minutes   420 MiB   (gradients [N, C D] would take 19 GiB)
    core-set           1,000 rows   0.4 minutes   499 MiB   (distances [N, N] would take 3.6 TiB)
    light-weight       1,000 rows    .03 minutes  443 MiB

The core-set leaves no row of a sample farther than 4.46 (random rows 5.4 to 5.6). On 8192 rows, all 300 draws of BADGE
and all 300 picks of the core-set were those of the functions on arrays.

On 16384 rows in 16 parts that facility location cost 3.5 % more than the greedy on all rows (random 23.8 % more); as it
is now, on 8192 rows in 8 parts, 1.4 % more (random 26.7 %). k-center and SIFT made the choice of the arrays, pick by
pick.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import _pool_run
from experiments.speed._pool_data import write_logits, write_pool
from experiments.speed._timing import in_fresh_process
from minibatch_jax.pool import open_pool, select_from_pool
from minibatch_jax.selection import badge_indices, facility_location_from_features, k_center, sift_indices

SAMPLE = 20_000
METHODS = ("k_center", "sift", "facility_location", "badge", "core-set", "lightweight_coreset")


def distances_to_nearest(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squared distance of each point to the nearest center, `[n]`."""
    squares = (points**2).sum(1)[:, None] + (centers**2).sum(1) - 2 * points @ centers.T
    return np.maximum(squares.min(1), 0)


def costs(points: np.ndarray, centers: np.ndarray) -> str:
    """Mean squared and largest distance to the nearest center, as text."""
    squares = distances_to_nearest(points, centers)
    return f"mean squared distance {squares.mean():8.4f}, largest distance {squares.max() ** 0.5:7.3f}"


def time_method(method: str, file: Path, k: int, folder: Path) -> None:
    """Run one method on the whole pool and print what it took and what it chose, on a sample of rows."""
    found = in_fresh_process(_pool_run.__name__, method, file, k, folder / method)
    pool = np.load(file, mmap_mode="r")
    found["rows"] = [row for row in found["rows"] if row < len(pool)]
    rng = np.random.default_rng(1)
    sample = pool[np.sort(rng.choice(len(pool), min(SAMPLE, len(pool)), replace=False))].astype(np.float32)
    print(
        f"\n{method}, {len(pool)} x {pool.shape[1]} {pool.dtype} -> {k}: {found['seconds'] / 60:.1f} minutes "
        f"({found['cpu_seconds'] / 60:.1f} of all cores, load average {os.getloadavg()[0]:.1f}), "
        f"peak {found['peak_mib']:.0f} MiB (before the call {found['start_mib']:.0f}), cost {found['cost']:.4f}"
    )
    if method in ("sift", "badge"):
        print(f"  distinct rows {found['distinct']}")
        return
    print(f"  chosen: {costs(sample, pool[np.sort(found['rows'])].astype(np.float32))}")
    for seed in range(3):
        rows = np.sort(np.random.default_rng(seed).choice(len(pool), k, replace=False))
        print(f"  random: {costs(sample, pool[rows].astype(np.float32))}")


def compare_with_exact(file: Path, size: int, parts: int, k: int, seed: int = 0) -> None:
    """Loss against the functions on arrays, on a random subset."""
    pool = np.load(file, mmap_mode="r")
    rows = np.sort(np.random.default_rng(seed).choice(len(pool), size, replace=False))
    subset: Any = pool[rows].astype(np.float32)
    exact = np.asarray(jax.jit(lambda x: facility_location_from_features(x, k).indices)(subset))
    chosen = select_from_pool(subset, k, rows_per_part=size // parts, progress=False).indices
    random = np.random.default_rng(seed).choice(size, k, replace=False)
    value = {
        n: distances_to_nearest(subset, subset[i]).mean()
        for n, i in (("exact", exact), ("parts", chosen), ("random", random))
    }
    print(f"\nSubset of {size} rows -> {k}, mean squared distance to the nearest chosen row")
    print(
        f"  facility location: on all rows {value['exact']:.4f}, in {parts} parts {value['parts']:.4f} "
        f"(+{100 * (value['parts'] / value['exact'] - 1):.1f} %), random {value['random']:.4f} "
        f"(+{100 * (value['random'] / value['exact'] - 1):.1f} %)"
    )
    centers = jax.jit(lambda x: k_center(x, k))(subset)
    far = select_from_pool(subset, k, method="k_center", progress=False)
    print(
        f"  k-center: {np.sum(far.indices == np.asarray(centers.indices))} of {k} picks as on the array, "
        f"radius {far.cost:.4f} and {float(centers.radius):.4f}"
    )
    queries = jnp.asarray(_pool_run.queries(str(file)))
    most = select_from_pool(subset, k, method="sift", queries=np.asarray(queries), progress=False)
    known = jax.jit(lambda x: sift_indices(x, queries, k))(subset)
    print(
        f"  SIFT: {np.sum(most.indices == np.asarray(known.indices))} of {k} picks as on the array, "
        f"variance left {most.cost:.5f} and {float(known.variances[-1]):.5f}"
    )


def compare_labeling(file: Path, size: int, k: int, seed: int = 0) -> None:
    """Picks that are those of the functions on arrays, on a random subset."""
    rows = np.sort(np.random.default_rng(seed).choice(len(np.load(file, mmap_mode="r")), size, replace=False))
    features, logits = (open_pool(path)[rows].astype(np.float32) for path in (file, file.with_name("logits.npy")))
    labeled = np.arange(size) % 100 == 0
    found = select_from_pool(features, k, method="badge", logits=logits, chosen=labeled, progress=False).indices
    drawn = jax.jit(lambda z, x: badge_indices(0, z, x, k, where=jnp.asarray(~labeled)))(logits, features)
    far = select_from_pool(features, k, method="k_center", chosen=labeled, progress=False).indices
    centers = jax.jit(lambda x: k_center(x, k, chosen=jnp.asarray(labeled)).indices)(features)
    print(f"  BADGE: {np.sum(found == np.asarray(drawn))} of {k} draws as on the array")
    print(f"  core-set: {np.sum(far == np.asarray(centers))} of {k} picks as on the array")


def main(
    rows: int = 1_000_000,
    width: int = 256,
    classes: int = 20,
    k: int = 500,
    sift_k: int = 100,
    labeling_k: int = 1000,
    methods: tuple[str, ...] = METHODS,
    subset: int = 16_384,
    parts: int = 16,
    folder: str = "/tmp/minibatch_jax_pool",
    keep: bool = False,
) -> None:
    """Write the pool, choose from it by each method, compare with the exact choice on a subset, delete it."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    file = place / "pool.npy"
    if not file.exists():
        partial = place / "partial.npy"
        write_pool(partial, rows, width)
        partial.rename(file)
    if not (logits := place / "logits.npy").exists():
        partial = place / "partial.npy"
        write_logits(partial, file, classes)
        partial.rename(logits)
    compare_with_exact(file, min(subset, rows), parts, min(subset, rows) // 100)
    compare_labeling(file, min(subset, rows), min(subset, rows) // 100)
    for method in methods:
        time_method(method, file, {"sift": sift_k}.get(method, k if method in METHODS[:3] else labeling_k), place)
    naive = 4 * rows * width * classes / 2**30
    print(
        f"\nBADGE with gradients [N, C D] would need {naive:.1f} GiB, core-set with all distances [N, N] "
        f"{4 * rows**2 / 2**40:.1f} TiB."
    )
    if not keep:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
