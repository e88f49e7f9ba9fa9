"""Facility location outside JAX, the peers of speed case D: numpy with a heap, and apricot and submodlib if installed.

`python -m experiments.speed._facility_location_peers ITEMS KEPT WIDTH SEED REPEATS` prints times and values as JSON.
"""

import heapq
import json
import sys
from importlib.util import find_spec

import numpy as np

from experiments.speed._timing import milliseconds


def items(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def similarities(x: np.ndarray) -> np.ndarray:
    """An upper bound on the squared distances minus the squared distances, as the library has it."""
    x = x - x.mean(0)
    squares = np.sum(x**2, 1)
    return 4 * squares.max() - squares[:, None] - squares + 2 * x @ x.T


def numpy_lazy(s: np.ndarray, kept: int) -> np.ndarray:
    best = np.zeros(len(s), np.float32)
    heap = [(-gain, j) for j, gain in enumerate(s.sum(0).tolist())]
    heapq.heapify(heap)
    chosen = []
    while len(chosen) < kept:
        _, j = heap[0]
        gain = float(np.maximum(s[j] - best, 0).sum())
        heapq.heapreplace(heap, (-gain, j))
        if heap[0][1] == j:
            heapq.heappop(heap)
            best = np.maximum(best, s[j])
            chosen.append(j)
    return np.array(chosen)


def apricot_lazy(s: np.ndarray, kept: int) -> np.ndarray:
    from apricot import FacilityLocationSelection  # pyright: ignore[reportMissingImports]

    return FacilityLocationSelection(kept, metric="precomputed", optimizer="lazy").fit(s).ranking


def submodlib_lazy(s: np.ndarray, kept: int) -> np.ndarray:
    from submodlib import FacilityLocationFunction  # pyright: ignore[reportMissingImports]

    function = FacilityLocationFunction(n=len(s), mode="dense", sijs=s, separate_rep=False)
    return np.array([j for j, _ in function.maximize(budget=kept, optimizer="LazyGreedy", show_progress=False)])


def main(count: int, kept: int, width: int, seed: int, repeats: int) -> None:
    s = similarities(items(count, width, seed))
    peers = {"numpy, lazy with a heap": numpy_lazy}
    if find_spec("submodlib"):
        peers["submodlib, lazy"] = submodlib_lazy
    if find_spec("apricot") and count <= 1000:
        peers["apricot, lazy"] = apricot_lazy
    times = {name: milliseconds(lambda p=peer: p(s, kept), repeats, warmup=0) for name, peer in peers.items()}
    values = {name: float(s[:, peer(s, kept)].max(1).sum()) for name, peer in peers.items()}
    print(json.dumps({"times": times, "values": values}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
