"""What the conformance cases of mining draw: weights and signals."""

import numpy as np

from tests.case import ROWS, Case


def ones(rng: np.random.Generator) -> np.ndarray:
    del rng
    return np.ones((ROWS, ROWS), np.float32)


def distances(rng: np.random.Generator) -> dict[str, np.ndarray]:
    points = rng.normal(size=(ROWS, 2)).astype(np.float32)
    apart = np.sqrt(np.sum((points[:, None] - points[None]) ** 2, -1))
    return {"distances": apart / 2, "labels": rng.permutation(np.arange(ROWS) % 3).astype(np.int32)}


def case(make) -> Case:
    return Case(make, distances, ones, tolerance=1e-6)
