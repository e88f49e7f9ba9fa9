"""Case F: triplet mining and triplet losses with their gradients, against pytorch-metric-learning and a dense array.

Targets at 1024 embeddings: at most 0.15 of pytorch-metric-learning for hard triplets, at most 0.05 for semi-hard and
all triplets. The peer runs in a process of its own, in turns with ours. If it is not installed beside JAX, set
`PML_PYTHON` to an interpreter that has torch and pytorch-metric-learning; without one its rows are missing.
"""

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed import _triplets_pml
from experiments.speed._timing import in_fresh_process, milliseconds, print_ratios
from minibatch_jax.mining import (
    euclidean_distances,
    mined_triplet_loss,
    negative_mask,
    normalize_embeddings,
    positive_mask,
    triplet_choice,
    triplet_loss,
)

OURS, DENSE, PEER = "minibatch_jax", "JAX, dense [B, B, B]", "pytorch-metric-learning"
MARGIN, WIDTH, PER_CLASS = 0.2, 128, 8


def peer_python() -> str | None:
    """An interpreter with pytorch-metric-learning, or None."""
    python = os.environ.get("PML_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import torch, pytorch_metric_learning"], capture_output=True, check=False)
    return python if found.returncode == 0 else None


def distances_and_masks(embeddings: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What every loss here starts from."""
    return euclidean_distances(normalize_embeddings(embeddings)), positive_mask(labels), negative_mask(labels)


def loss(mining: str) -> Callable[..., Any]:
    """Loss and gradient by the embeddings."""
    if mining == "hard":
        return jax.value_and_grad(lambda x, y: mined_triplet_loss(normalize_embeddings(x), y, margin=MARGIN))
    return jax.value_and_grad(lambda x, y: triplet_loss(*distances_and_masks(x, y), margin=MARGIN, mining=mining))


def dense_loss(mining: str) -> Callable[..., Any]:
    """The same from an array of all triplets."""

    def value(x, y):
        d, positives, negatives = distances_and_masks(x, y)
        excess = d[:, :, None] - d[:, None, :] + MARGIN
        active = positives[:, :, None] & negatives[:, None, :] & (excess > 0)
        active &= (excess < MARGIN) | (mining == "all")
        return jnp.sum(jnp.where(active, excess, 0)) / jnp.maximum(jnp.sum(active), 1)

    return jax.value_and_grad(value)


def calls_of(size: int) -> dict[str, dict[str, Callable[..., Any]]]:
    """Jitted functions of embeddings and labels, by row of the case and by name."""
    calls = {"mine hard": {OURS: jax.jit(lambda x, y: triplet_choice(*distances_and_masks(x, y)))}}
    for name in _triplets_pml.MINED:
        calls[name] = {OURS: jax.jit(loss(name))}
        if size <= 256 and name != "hard":
            calls[name][DENSE] = jax.jit(dense_loss(name))
    return calls


def print_agreement(calls: dict[str, dict[str, Callable[..., Any]]], data: tuple, expected: Any) -> None:
    """Largest differences of loss and gradient from the peer's."""
    for name in _triplets_pml.MINED:
        value, gradient = calls[name][OURS](*data)
        theirs = expected[f"{name}_gradient"]
        relative = abs(float(value) / float(expected[f"{name}_loss"]) - 1)
        share = np.abs(np.asarray(gradient) - theirs).max() / np.abs(theirs).max()
        print(f"  {name}: loss differs by {relative:.1e} of it, gradient by {share:.1e} of its largest entry")


def time_size(size: int, python: str | None, rounds: int, repeats: int) -> None:
    """Print the table of one batch size."""
    data = tuple(map(jnp.asarray, _triplets_pml.batch(size, WIDTH, PER_CLASS)))
    calls, expected = calls_of(size), None
    times = {row: defaultdict(list) for row in calls}
    for _ in range(rounds):
        for row, functions in calls.items():
            for name, call in functions.items():
                times[row][name] += milliseconds(lambda c=call: jax.block_until_ready(c(*data)), repeats, warmup=2)
        if python is not None:
            with tempfile.TemporaryDirectory() as folder:
                results = Path(folder) / "results.npz"
                arguments = (size, WIDTH, PER_CLASS, MARGIN, repeats, results)
                for row, values in in_fresh_process(_triplets_pml.__name__, *arguments, python=python).items():
                    times[row][PEER] += values
                expected = dict(np.load(results))
    for row, values in times.items():
        kind = "triplets, embeddings to columns" if row.startswith("mine") else "triplet loss and gradient"
        print_ratios(f"F. {row} {kind}, B = {size}, d = {WIDTH}, {PER_CLASS} per class", values, OURS)
    if expected is not None:
        print_agreement(calls, data, expected)


def main(sizes: tuple[int, ...] = (256, 1024), rounds: int = 3, repeats: int = 9):
    """Print the ratios, and how far loss and gradient are from the peer's."""
    python = peer_python()
    if python is None:
        print(f"{PEER} is not installed: no rows for it (set PML_PYTHON to an interpreter that has it)")
    for size in sizes:
        time_size(size, python, rounds, repeats)


if __name__ == "__main__":
    main()
