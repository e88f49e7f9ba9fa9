"""Selection outside JAX, the peers of speed case D: numpy, and apricot, submodlib, activeft and coreax if installed.

`python -m experiments.speed._facility_location_peers TASK ITEMS KEPT WIDTH SEED REPEATS` prints times and choices as
JSON, for the task facility_location, k_center or sift.
"""

import heapq
import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np

from experiments.speed._timing import milliseconds

NOISE, TARGETS = 0.01, 4


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


def numpy_farthest_first(x: np.ndarray, kept: int) -> np.ndarray:
    nearest = np.full(len(x), np.inf, np.float32)
    chosen = [int(np.argmin(np.sum((x - x.mean(0)) ** 2, 1)))]
    while len(chosen) < kept:
        nearest = np.minimum(nearest, np.sum((x - x[chosen[-1]]) ** 2, 1))
        chosen.append(int(np.argmax(nearest)))
    return np.array(chosen)


def numpy_sift(x: np.ndarray, targets: np.ndarray, kept: int) -> np.ndarray:
    cross, variance, unknown, chosen = x @ targets.T, np.sum(x**2, 1), np.eye(x.shape[1], dtype=np.float32), []
    for _ in range(kept):
        j = int(np.argmax(np.sum(cross**2, 1) / (variance + NOISE)))
        direction = unknown @ x[j] / np.sqrt(variance[j] + NOISE)
        new = x @ direction
        cross, variance = cross - np.outer(new, targets @ direction), np.maximum(variance - new**2, 0)
        unknown = unknown - np.outer(direction, direction)
        chosen.append(j)
    return np.array(chosen)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def apricot_lazy(s: np.ndarray, kept: int) -> np.ndarray:
    from apricot import FacilityLocationSelection  # pyright: ignore[reportMissingImports]

    return FacilityLocationSelection(kept, metric="precomputed", optimizer="lazy").fit(s).ranking


def submodlib_lazy(s: np.ndarray, kept: int) -> np.ndarray:
    from submodlib import FacilityLocationFunction  # pyright: ignore[reportMissingImports]

    function = FacilityLocationFunction(n=len(s), mode="dense", sijs=s, separate_rep=False)
    return np.array([j for j, _ in function.maximize(budget=kept, optimizer="LazyGreedy", show_progress=False)])


def coreax_herding(x: np.ndarray, kept: int) -> Callable[[], np.ndarray]:
    """Kernel herding: of another objective, and the nearest that coreax has to k-center."""
    import equinox
    import jax.numpy as jnp
    from coreax import Data, SquaredExponentialKernel  # pyright: ignore[reportMissingImports]
    from coreax.solvers import KernelHerding  # pyright: ignore[reportMissingImports]

    solver = KernelHerding(kept, kernel=SquaredExponentialKernel(length_scale=float(x.shape[1]) ** 0.5), unique=True)
    reduce = equinox.filter_jit(solver.reduce)
    data = Data(jnp.asarray(x))
    return lambda: np.asarray(reduce(data)[0].indices.data).reshape(-1)


def activeft_of(x: np.ndarray, kept: int, acquisition: str, targets: np.ndarray | None) -> Callable[[], np.ndarray]:
    """The acquisition functions of activeft that are SIFT and k-center."""
    import torch  # pyright: ignore[reportMissingImports]
    from activeft import ActiveDataLoader  # pyright: ignore[reportMissingImports]
    from activeft.acquisition_functions.max_dist import MaxDist  # pyright: ignore[reportMissingImports]
    from activeft.acquisition_functions.vtl import VTL  # pyright: ignore[reportMissingImports]
    from activeft.data import Dataset  # pyright: ignore[reportMissingImports]

    class Rows(Dataset):
        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            return torch.as_tensor(x[index])

    options = {"num_workers": 0, "subsample": False, "mini_batch_size": len(x)}
    if acquisition == "sift":
        function = VTL(torch.as_tensor(targets), noise_std=NOISE**0.5, force_nonsequential=False, **options)
    else:
        function = MaxDist(**options, force_nonsequential=False)
    loader = ActiveDataLoader(Rows(), kept, function, device=torch.device("cpu"))
    return lambda: np.asarray(loader.next()[0])


def facility_location_peers(x: np.ndarray, kept: int) -> dict[str, Callable[[], np.ndarray]]:
    s = similarities(x)
    peers = {"numpy, lazy with a heap": numpy_lazy}
    if find_spec("submodlib"):
        peers["submodlib, lazy"] = submodlib_lazy
    if find_spec("apricot") and len(x) <= 1000:
        peers["apricot, lazy"] = apricot_lazy
    for peer in peers.values():
        peer(similarities(x[:32]), 4)  # imports and compiles
    return {name: partial(peer, s, kept) for name, peer in peers.items()}


def k_center_peers(x: np.ndarray, kept: int) -> dict[str, Callable[[], np.ndarray]]:
    peers: dict[str, Callable[[], np.ndarray]] = {"numpy, farthest first": partial(numpy_farthest_first, x, kept)}
    if find_spec("activeft"):
        peers["activeft, MaxDist"] = activeft_of(x, kept, "k_center", None)
    if find_spec("coreax"):
        peers["coreax, kernel herding (another goal)"] = coreax_herding(x, kept)
    return peers


def sift_peers(x: np.ndarray, kept: int) -> dict[str, Callable[[], np.ndarray]]:
    x = unit(x)
    targets = x[:TARGETS] + x[TARGETS : 2 * TARGETS]
    peers: dict[str, Callable[[], np.ndarray]] = {
        "numpy, rank-one updates": partial(numpy_sift, x, unit(targets), kept)
    }
    if find_spec("activeft"):
        peers["activeft, VTL (SIFT)"] = activeft_of(x, kept, "sift", unit(targets))
    return peers


def main(task: str, count: int, kept: int, width: int, seed: int, repeats: int) -> None:
    peers = {"facility_location": facility_location_peers, "k_center": k_center_peers, "sift": sift_peers}[task]
    calls = peers(items(count, width, seed), kept)
    times = {name: milliseconds(call, repeats, warmup=int(task != "facility_location")) for name, call in calls.items()}
    print(json.dumps({"times": times, "chosen": {name: call().tolist() for name, call in calls.items()}}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
