"""Runs that cost nothing: bigram models of three related Markov chains, whose losses behave like those of mixtures.

"Training" on a mixture expects N bigrams in its proportions and adds a constant to each count. The loss of a domain is
the exact cross-entropy of its chain, so domains help each other and more data helps ever less.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SYMBOLS, BIGRAMS, SMOOTHING = 8, 400, 0.1


def _chains() -> np.ndarray:
    """`[3, V, V]`, the joint probabilities of two consecutive symbols; the third chain is nearest to uniform."""
    rng = np.random.default_rng(0)
    base = rng.dirichlet(np.full(SYMBOLS, 0.3), SYMBOLS)
    shares, own = (0.6, 0.6, 0.2), (0.1, 0.3, 1.0)
    joint = []
    for share, strength in zip(shares, own):
        rows = share * base + (1 - share) * rng.dirichlet(np.full(SYMBOLS, strength), SYMBOLS)
        state = np.linalg.matrix_power(rows, 200)[0]
        joint.append(state[:, None] * rows)
    return np.stack(joint)


CHAINS = _chains()


def losses(mixtures: jax.Array) -> jax.Array:
    """Return the loss on each domain after training on each mixture, `[M, 3]`."""
    joint = jnp.asarray(CHAINS, jnp.float32)
    counts = BIGRAMS * jnp.einsum("mk,kvw->mvw", mixtures, joint) + SMOOTHING
    logs = jnp.log(counts / jnp.sum(counts, axis=2, keepdims=True))
    return -jnp.einsum("kvw,mvw->mk", joint, logs)


@functools.cache
def loss_of_domain(domain: int) -> Callable[[jax.Array], jax.Array]:
    """Return the function from mixtures to the loss on one domain, `[M]`."""
    return lambda mixtures: losses(mixtures)[:, domain]


def grid(steps: int) -> np.ndarray:
    """Return all mixtures of three domains in multiples of 1 / steps."""
    first, second = (g.ravel() for g in np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing="ij"))
    kept = first + second <= steps
    return np.stack([first[kept], second[kept], steps - first[kept] - second[kept]], axis=1) / steps
