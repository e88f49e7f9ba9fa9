"""Vectors of length 1, their labels, masks and distances, which tests draw."""

import jax.numpy as jnp
import numpy as np

from minibatch_jax import mining


def batch(seed, size=9):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True), rng.integers(0, 3, size)


def masks(labels):
    labels = jnp.asarray(labels)
    return mining.positive_mask(labels), mining.negative_mask(labels)


def distances(x, r):
    return np.linalg.norm(x[:, None] - r[None], axis=-1)
