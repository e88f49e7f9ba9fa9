"""The Schrödinger bridge between two normal laws, in closed form.

Bunne et al., The Schrödinger bridge between Gaussian measures has a closed form, 2023 (arXiv 2202.05722), from the
entropic plan of Janati et al., 2020 (arXiv 2006.02572).
"""

from typing import NamedTuple

import numpy as np


class Bridge(NamedTuple):
    """A bridge of noise sigma from N(0, start) to N(mean, end).

    Attributes:
      start, end: `[d, d]`, covariances of the ends.
      mean: `[d]`, of the second end.
      sigma: noise of the bridge.
    """

    start: np.ndarray
    end: np.ndarray
    mean: np.ndarray
    sigma: float

    def cross_covariance(self) -> np.ndarray:
        """`[d, d]`, E[x0 (x1 - mean)^T] of the entropic plan at epsilon `2 sigma^2`."""
        root, inverse = power(self.start, 0.5), power(self.start, -0.5)
        spread = power(4 * root @ self.end @ root + self.sigma**4 * np.eye(len(root)), 0.5)
        return (root @ spread @ inverse - self.sigma**2 * np.eye(len(root))) / 2

    def covariance(self, t: float) -> np.ndarray:
        """`[d, d]`, covariance of the place at time t; its mean is `t * mean`."""
        cross = self.cross_covariance()
        noise = t * (1 - t) * (cross + cross.T + self.sigma**2 * np.eye(len(cross)))
        return (1 - t) ** 2 * self.start + t**2 * self.end + noise


def bures(mean0: np.ndarray, covariance0: np.ndarray, mean1: np.ndarray, covariance1: np.ndarray) -> float:
    """2-Wasserstein distance of two normal laws."""
    root = power(covariance0, 0.5)
    between = power(root @ covariance1 @ root, 0.5)
    square = np.sum((mean0 - mean1) ** 2) + np.trace(covariance0 + covariance1 - 2 * between)
    return float(np.sqrt(max(square, 0)))


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 1e-12) ** exponent) @ vectors.T
