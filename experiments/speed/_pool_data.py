"""Embeddings for the pool of a million rows: augmented Fashion-MNIST images through a fixed random layer."""

import shutil
from pathlib import Path

import numpy as np

from experiments.datasets import arrays

BLOCK = 10_000


def write_pool(path: Path, rows: int, width: int, seed: int = 0) -> None:
    """Write `[rows, width]` float16: images shifted, mirrored, scaled and with noise, times random weights, ReLU."""
    needed = rows * width * 2 + (1 << 30)
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(f"{path.parent} has less than {needed >> 20} MiB free.")
    images = arrays("fashion_mnist", "train")["image"].reshape(-1, 28, 28)
    rng = np.random.default_rng(seed)
    layer = rng.normal(size=(28 * 28, width)).astype(np.float32) / 28
    pool = np.lib.format.open_memmap(path, "w+", np.float16, (rows, width))
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        pool[start : start + count] = np.maximum(augmented(rng, images, start, count) @ layer, 0)
    pool.flush()


def write_logits(path: Path, pool: Path, classes: int, seed: int = 1) -> None:
    """Write `[rows, classes]` float16: the rows of a pool times random weights, so that classes are likely or not."""
    rows = np.load(pool, mmap_mode="r")
    head = np.random.default_rng(seed).normal(size=(rows.shape[1], classes)).astype(np.float32)
    head *= 3 / rows[:BLOCK].astype(np.float32).dot(head).std()
    logits = np.lib.format.open_memmap(path, "w+", np.float16, (len(rows), classes))
    for start in range(0, len(rows), BLOCK):
        logits[start : start + BLOCK] = rows[start : start + BLOCK].astype(np.float32) @ head
    logits.flush()


def augmented(rng: np.random.Generator, images: np.ndarray, start: int, count: int) -> np.ndarray:
    """The images `start, start + 1, ...` (again and again), each changed at random: `[count, 784]`."""
    batch = images[np.arange(start, start + count) % len(images)].astype(np.float32) / 255
    batch = np.where(rng.random((count, 1, 1)) < 0.5, batch[:, :, ::-1], batch)
    shifts = rng.integers(-2, 3, (count, 2))
    for axis in (0, 1):
        for shift in range(-2, 3):
            moved = shifts[:, axis] == shift
            batch[moved] = np.roll(batch[moved], shift, axis + 1)
    batch *= rng.uniform(0.7, 1.3, (count, 1, 1)).astype(np.float32)
    return (batch + 0.05 * rng.normal(size=batch.shape).astype(np.float32)).reshape(count, -1)
