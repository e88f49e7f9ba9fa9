"""What the conformance cases of coupling draw: weights and signals."""

import numpy as np

from tests.case import ROWS


def pairs(rng):
    a, b = rng.uniform(0.5, 1, ROWS), rng.uniform(0.5, 1, ROWS)
    return np.asarray(np.outer(a / a.sum(), b / b.sum()), np.float32)


def cost(rng):
    x0, x1 = rng.normal(size=(2, ROWS, 3))
    return {"cost": np.sum((x0[:, None] - x1[None]) ** 2, axis=-1).astype(np.float32)}


def nothing(rng):
    del rng
    return {}
