"""What several tests of mixing check against: the objective of a fit in numpy, and its minimum by scipy."""

import numpy as np
import scipy.optimize


def huber_sum(residuals, delta):
    size = np.abs(residuals)
    return np.where(size <= delta, size**2 / 2, delta * (size - delta / 2)).sum()


def lower_by(objective, at, value, moved=2, seed=0):
    """By how much of `value` L-BFGS of scipy finds the objective lower, from the parameters `at` and near them."""
    rng = np.random.default_rng(seed)
    starts = [at, *(at + 0.5 * rng.normal(size=(moved, len(at))))]
    best = min(scipy.optimize.minimize(objective, start, method="L-BFGS-B").fun for start in starts)
    return (value - best) / value


def grid_of_mixtures(steps):
    """All mixtures of three domains whose proportions are multiples of 1 / steps."""
    first, second = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing="ij")
    kept = first + second <= steps
    first, second = first[kept], second[kept]
    return np.stack([first, second, steps - first - second], axis=1) / steps
