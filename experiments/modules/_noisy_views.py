"""Two views of digits that have nothing but the class in common, and kernel CCA of them."""

from functools import cache

import jax.numpy as jnp
import numpy as np

from experiments.datasets import arrays
from experiments.modules._two_view_scores import Codes, Digits
from minibatch_jax.modules import (
    fourier_features,
    gaussian_kernel,
    init_fourier_features,
    kernel_cca,
    linear_cca,
)

SIDE = 14
MOST_DEGREES = 45


@cache
def noisy_views(train_rows: int, test_rows: int, validate: bool, seed: int) -> tuple[Digits, Digits]:
    """Training and test digits: one view turned, the other another digit of the class in noise; centered and scaled.

    With `validate` the test digits come from the training set of MNIST, after those to train on.
    """
    rng = np.random.default_rng(seed)
    pool, held_out = arrays("mnist", "train"), arrays("mnist", "train" if validate else "test")
    order = rng.permutation(len(pool["label"]))
    rows = order[:train_rows]
    test = order[train_rows:][:test_rows] if validate else rng.permutation(len(held_out["label"]))[:test_rows]
    splits = [both_views(columns, which, rng) for columns, which in ((pool, rows), (held_out, test))]
    scaled = []
    for view in (0, 1):
        mean = splits[0][view].mean(0, keepdims=True)
        deviation = (splits[0][view] - mean).std()
        scaled.append([(split[view] - mean) / deviation for split in splits])
    train, test = (Digits(scaled[0][i], scaled[1][i], splits[i].label) for i in (0, 1))
    return train, test


def both_views(columns: dict[str, np.ndarray], rows: np.ndarray, rng: np.random.Generator) -> Digits:
    """Views of some rows, `[N, 196]`: averaged pixels in [0, 1] of a turned digit, and of another digit with noise."""
    images, labels = columns["image"][rows, ..., 0] / np.float32(255), columns["label"][rows]
    first = small(turned(images, rng.uniform(-MOST_DEGREES, MOST_DEGREES, len(images))))
    partner = np.arange(len(rows))
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        partner[of_class] = np.roll(rng.permutation(of_class), 1)
    noise = rng.uniform(0, 1, (len(images), SIDE**2)).astype(np.float32)
    return Digits(first, np.minimum(small(images[partner]) + noise, 1), labels)


def turned(images: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Each image turned around its center."""
    from scipy.ndimage import rotate

    turn = [rotate(image, angle, reshape=False, order=1) for image, angle in zip(images, degrees, strict=True)]
    return np.stack(turn)


def small(images: np.ndarray) -> np.ndarray:
    """Means of squares of four pixels, flat."""
    return images.reshape(-1, SIDE, 2, SIDE, 2).mean((2, 4)).reshape(len(images), -1)


def median_distance(rows: np.ndarray) -> float:
    """Of 500 rows among each other."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(rows[:500])))


def linear_codes(train: Digits, test: Digits, k: int, ridge: float) -> Codes:
    """Canonical projections of the pixels."""
    found = linear_cca(*map(jnp.asarray, train[:2]), ridge=ridge, num_components=k)
    maps = [np.asarray(m) for m in found[:2]]
    return Codes(*(split[i] @ maps[i] for split in (train, test) for i in (0, 1)))


def kernel_codes(train: Digits, test: Digits, k: int, ridge: float, rows: int) -> Codes:
    """Exact kernel CCA of the first rows, which projects all others."""
    widths = [median_distance(view) for view in train[:2]]
    bases = [jnp.asarray(view[:rows]) for view in train[:2]]
    kernels = [gaussian_kernel(base, base, bandwidth=width) for base, width in zip(bases, widths, strict=True)]
    found = kernel_cca(*kernels, num_components=k, ridge=ridge)
    projected = [
        gaussian_kernel(jnp.asarray(split[i]), bases[i], bandwidth=widths[i]) @ found[i]
        for split in (train, test)
        for i in (0, 1)
    ]
    return Codes(*map(np.asarray, projected))


def random_codes(train: Digits, test: Digits, k: int, ridge: float, features: int, seed: int) -> Codes:
    """Linear CCA of random features of all rows."""
    widths = [median_distance(view) for view in train[:2]]
    waves = [init_fourier_features(2 * seed + i, SIDE**2, features, bandwidth=widths[i]) for i in (0, 1)]
    mapped = [[fourier_features(waves[i], jnp.asarray(split[i])) for i in (0, 1)] for split in (train, test)]
    found = linear_cca(*mapped[0], ridge=features * ridge, num_components=k)
    return Codes(*(np.asarray(mapped[split][i] @ found[i]) for split in (0, 1) for i in (0, 1)))
