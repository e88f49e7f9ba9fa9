"""Case D: greedy facility location, d = 64, a tenth kept, against submodlib, apricot and numpy; also k-center and SIFT.

Targets: lazy at most 0.4 of submodlib at 1000 items and 0.2 at 4000, and 0.5 of a heap in numpy; 16000 items by
stochastic greedy in less than a second and without the matrix. k-center meets activeft (MaxDist) and, though it has
another goal, coreax (kernel herding); SIFT meets activeft (VTL). The peers run in a process of their own, in turns with
ours. If they are not installed beside JAX, set `PEERS_PYTHON` to an interpreter that has them, as after

    python -m venv peers && peers/bin/pip install apricot-select submodlib-py coreax activeft faiss-cpu torch

A peer that is missing is named, and its rows are.
"""

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import _facility_location_peers as peers
from experiments.speed._timing import in_fresh_process, milliseconds, print_ratios
from minibatch_jax.selection import facility_location, facility_location_from_features, k_center, sift_indices
from minibatch_jax.selection.coresets import similarity_matrix
from minibatch_jax.selection.sift import Sift

OURS = "facility_location, lazy, given the matrix"


def peers_python() -> str:
    """The interpreter with the peers; names those that it lacks."""
    python = os.environ.get("PEERS_PYTHON", sys.executable)
    for peer in ("apricot", "submodlib", "activeft", "coreax"):
        check = f"import importlib.util as u, sys; sys.exit(u.find_spec({peer!r}) is None)"
        if subprocess.run([python, "-c", check], check=False).returncode:
            print(f"{peer} is not installed: no rows for it (set PEERS_PYTHON to an interpreter that has it)")
    return python


def calls(count: int, kept: int) -> dict:
    """Ours, as functions of the features: name to jitted call with its input made outside the clock."""
    key = jax.random.key(0)
    dense = partial(facility_location, k=kept)
    lazy = partial(facility_location_from_features, k=kept)
    stochastic = partial(facility_location_from_features, k=kept, method="stochastic", key=key)
    made = {
        OURS: (jax.jit(dense), True),
        "stochastic, given the matrix": (jax.jit(partial(dense, method="stochastic", key=key)), True),
        "lazy, no matrix": (jax.jit(lazy), False),
        "stochastic, no matrix": (jax.jit(stochastic), False),
    }
    if count <= 1000:
        made["naive, given the matrix"] = (jax.jit(partial(dense, method="naive")), True)
    return made


def measure(count: int, width: int, rounds: int, repeats: int, python: str | None) -> None:
    """Facility location: times and values, without peers if there is no interpreter for them."""
    kept = count // 10
    times, values = defaultdict(list), {}
    for seed in range(rounds):
        features = jnp.asarray(peers.items(count, width, seed))
        inputs = {False: features}
        made = calls(count, kept)
        if python is not None:
            inputs[True] = jax.jit(similarity_matrix)(features)
            found = _run_peers(python, times, "facility_location", count, kept, width, seed, repeats)
            matrix = peers.similarities(np.asarray(features))
            values.update({name: float(matrix[:, rows].max(1).sum()) for name, rows in found.items()})
        for name, (call, given) in made.items():
            if given in inputs:
                run = partial(call, inputs[given])
                times[name] += milliseconds(lambda run=run: run().gains.block_until_ready(), repeats)
                values[name] = float(jnp.sum(run().gains))
    first = OURS if OURS in times else "stochastic, no matrix"
    print_ratios(f"D. facility location, {count} -> {kept}, d = {width}", times, first)
    for name, value in values.items():
        print(f"  value / best, {name:<44} {value / max(values.values()):.5f}")


def measure_other(
    task: str, call: Callable, quality: Callable, size: tuple[int, int, int], rounds: int, repeats: int, python: str
) -> None:
    """k-center or SIFT: times, and what the choice of the last seed costs."""
    (count, kept, width), ours = size, f"minibatch_jax, {task}"
    times, costs = defaultdict(list), {}
    for seed in range(rounds):
        features = peers.items(count, width, seed)
        found = _run_peers(python, times, task, count, kept, width, seed, repeats)
        run = partial(jax.jit(call), jnp.asarray(features))
        times[ours] += milliseconds(lambda run=run: run().indices.block_until_ready(), repeats)
        found[ours] = run().indices.tolist()
        costs = {name: quality(features, rows) for name, rows in found.items()}
    print_ratios(f"D. {task}, {count} -> {kept}, d = {width}", times, ours)
    for name, cost in costs.items():
        print(f"  cost, {name:<44} {cost:.5f}")


def radius(features: np.ndarray, rows: list[int]) -> float:
    """Largest distance of an item to the nearest chosen one."""
    nearest = np.full(len(features), np.inf)
    for j in rows:
        nearest = np.minimum(nearest, ((features - features[j]) ** 2).sum(1))
    return float(np.sqrt(nearest.max()))


def variance_left(features: np.ndarray, rows: list[int]) -> float:
    """Posterior variance at the targets, by the formula."""
    x = peers.unit(features.astype(np.float64))
    targets, chosen = _targets(x), x[rows]
    known = np.linalg.solve(chosen @ chosen.T + peers.NOISE * np.eye(len(rows)), chosen @ targets.T)
    return float(np.sum(targets**2) - np.sum((targets @ chosen.T) * known.T))


def main(
    sizes: tuple[int, ...] = (1000, 4000),
    large: int = 16000,
    width: int = 64,
    sift_kept: int = 50,
    rounds: int = 3,
    repeats: int = 3,
) -> None:
    """Print the ratios for each size, with peers, and our times for the large one, without."""
    python = peers_python()
    for count in sizes:
        measure(count, width, rounds, repeats, python)
    if large:
        measure(large, width, rounds=1, repeats=1, python=None)
    for count in sizes:
        kept, chosen = count // 10, min(sift_kept, count)
        centers = partial(k_center, k=kept)
        measure_other("k_center", centers, radius, (count, kept, width), rounds, repeats, python)
        told = partial(_sift, chosen)
        measure_other("sift", told, variance_left, (count, chosen, width), rounds, repeats, python)


def _sift(kept: int, x: jax.Array) -> Sift:
    return sift_indices(x, _targets(x / jnp.linalg.norm(x, axis=1, keepdims=True)), kept, noise=peers.NOISE)


def _run_peers(python: str, times: Mapping[str, list[float]], task: str, *arguments: Any) -> dict[str, list[int]]:
    """Add the times of the peers, and return what they chose."""
    found = in_fresh_process(peers.__name__, task, *arguments, python=python)
    for peer, measured in found["times"].items():
        times[peer].extend(measured)
    return found["chosen"]


def _targets(x: Any) -> Any:
    """Unit rows to unit queries between them."""
    mixed = x[: peers.TARGETS] + x[peers.TARGETS : 2 * peers.TARGETS]
    return mixed / (mixed**2).sum(1, keepdims=True) ** 0.5


if __name__ == "__main__":
    main()
