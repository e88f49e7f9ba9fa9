"""Pairs that the tests of losses draw."""

import jax.numpy as jnp
import numpy as np


def pairs(seed=0, size=8):
    """Square; anchor 0 has no positive, anchor 1 no negative, anchor 2 neither, some pairs are neither."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.05, 0.95, (size, size))
    kind = rng.integers(0, 4, (size, size))
    np.fill_diagonal(kind, 3)
    positives, negatives = kind < 2, kind == 2
    positives[[0, 2]], negatives[[1, 2]] = False, False
    return jnp.asarray(values, jnp.float32), jnp.asarray(positives), jnp.asarray(negatives)
