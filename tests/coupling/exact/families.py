"""Families of costs on which exact solvers are compared, each a function of a generator and the sizes."""

import functools

import numpy as np

FORBIDDEN = 30.0


def squared_distances(rng, n, m, d):
    x0, x1 = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    return np.sum((x0[:, None] - x1[None]) ** 2, axis=-1)


FAMILIES = {
    "points of a plane": functools.partial(squared_distances, d=2),
    "points of 64 dimensions": functools.partial(squared_distances, d=64),
    "uniform": lambda rng, n, m: rng.random((n, m)),
    "ties": lambda rng, n, m: rng.integers(0, 8, (n, m)),
    "constant": lambda rng, n, m: np.ones((n, m)),
    "product": lambda rng, n, m: np.arange(1, n + 1)[:, None] * np.arange(1, m + 1)[None] / n,
    "forbidden": lambda rng, n, m: np.where(rng.random((n, m)) < 0.3, rng.random((n, m)), FORBIDDEN),
}
