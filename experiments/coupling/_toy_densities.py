"""Toy densities of the flow experiments, and directions to measure distances along."""

from typing import Literal

import numpy as np

Task = Literal["two_modes", "eight_modes"]

DIMENSIONS: dict[Task, int] = {"two_modes": 1, "eight_modes": 2}
NUM_DIRECTIONS = 64


def density(task: Task, rng: np.random.Generator, size: int) -> np.ndarray:
    """Points `[size, d]` of a toy density."""
    if task == "two_modes":
        points = rng.choice([-1.0, 1.0], (size, 1)) + 0.1 * rng.normal(size=(size, 1))
    else:
        angle = rng.integers(8, size=size) * np.pi / 4
        points = 2 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1 * rng.normal(size=(size, 2))
    return points.astype(np.float32)


def directions(dimension: int) -> np.ndarray:
    """Unit vectors `[d, L]` at equal angles; one on a line."""
    if dimension == 1:
        return np.ones((1, 1), np.float32)
    angle = np.arange(NUM_DIRECTIONS) * np.pi / NUM_DIRECTIONS
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


def far_modes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Points of eight normals of deviation 0.3 on a circle of radius 4."""
    angle = rng.integers(8, size=size) * np.pi / 4
    return (4 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.3 * rng.normal(size=(size, 2))).astype(np.float32)


def moons(rng: np.random.Generator, size: int) -> np.ndarray:
    """Points of two half circles of radius 3, one beside and below the other, with noise of deviation 0.2."""
    angle, upper = rng.uniform(0, np.pi, size), rng.integers(2, size=size)
    sign = 2 * upper - 1
    points = 3 * np.stack([np.cos(angle), sign * np.sin(angle)], 1) + np.array([1.5, -0.75]) * -sign[:, None]
    return (points + 0.2 * rng.normal(size=(size, 2))).astype(np.float32)
