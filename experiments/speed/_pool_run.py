"""One selection from a pool in a process of its own, so that its peak memory is its own.

`python -m experiments.speed._pool_run METHOD FILE K FOLDER` prints seconds (of this run: it goes on where it was
killed), those of all cores, peak MiB and the choice as JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from minibatch_jax.pool import select_from_pool

QUERIES = 4
LABELED = 100


def queries(file: str) -> np.ndarray:
    """Means of two of the last rows, which are no rows of the pool, as what a model is to be tuned for."""
    last = np.load(file, mmap_mode="r")[-2 * QUERIES :].astype(np.float32)
    return (last[:QUERIES] + last[QUERIES:]) / 2


def options(method: str, file: str) -> dict[str, Any]:
    """What a method takes besides the rows: "core-set" is k-center that starts from labeled rows."""
    size = len(np.load(file, mmap_mode="r"))
    labeled = np.random.default_rng(2).choice(size, LABELED, replace=False)
    logits = Path(file).with_name("logits.npy")
    return {
        "sift": {"queries": queries(file)},
        "badge": {"logits": logits, "chosen": labeled},
        "core-set": {"chosen": labeled},
        "lightweight_coreset": {"chosen": labeled},
    }.get(method, {}) | {"method": {"core-set": "k_center"}.get(method, method)}


def peak_mib() -> float:
    """Largest resident memory of this process; `getrusage` would count that of the process it was forked from."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def main(method: str, file: str, k: int, folder: str) -> None:
    arguments, before = options(method, file), peak_mib()
    start, cpu = time.perf_counter(), time.process_time()
    chosen = select_from_pool(file, k, state_folder=folder, progress=sys.stderr.isatty(), **arguments)
    seconds = time.perf_counter() - start
    found = {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": peak_mib(),
        "start_mib": before,
        "cost": chosen.cost,
        "distinct": len(set(chosen.indices.tolist())),
        "rows": chosen.indices.tolist(),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
