"""Data of `hierarchical_transport`: pairs of sets of items, ends of flows, and a Gaussian with its posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from experiments.datasets import arrays

TRUE_VARIANCE = 4.0


def estimate_pairs(seed: int, n: int) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Pairs of sets of n items: Gaussians three apart, a Gaussian and itself, digits and other digits."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n, 2)).astype(np.float32)
    digits = rng.permutation(digit_images())[: 2 * n]
    found = {"gaussians": (x, y + np.array([3, 0], np.float32)), "itself": (x, x), "digits": (digits[:n], digits[n:])}
    return {name: (jnp.asarray(a), jnp.asarray(b)) for name, (a, b) in found.items()}


def flow_problem(name: str, seed: int, n: int) -> tuple[jax.Array, jax.Array]:
    """Where particles start and where they should go, `[n, D]`."""
    rng = np.random.default_rng(seed)
    if name == "digits":
        x, y = (rng.permutation(digit_images(label))[:n] for label in (3, 8))
        return jnp.asarray(x), jnp.asarray(y)
    angle, upper = np.pi * rng.random(n), np.arange(n) % 2
    y = np.stack([np.cos(angle) + upper - 0.5, (1 - 2 * upper) * (np.sin(angle) - 0.25)], axis=1)
    x, noise = rng.normal(scale=[[[0.2]], [[0.05]]], size=(2, n, 2))
    return jnp.asarray(x, jnp.float32), jnp.asarray(y + noise, jnp.float32)


def abc_data(seed: int, n: int) -> tuple[jax.Array, jax.Array]:
    """The known mean `[2]` and the observed points `[n, 2]` around it."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=2)
    observed = mean + np.sqrt(TRUE_VARIANCE) * rng.normal(size=(n, 2))
    return jnp.asarray(mean, jnp.float32), jnp.asarray(observed, jnp.float32)


def true_posterior(mean: jax.Array, observed: jax.Array, count: int) -> np.ndarray:
    """Quantiles of the posterior under the prior InverseGamma(1, 1): InverseGamma(1 + n, 1 + half the squares)."""
    levels = (np.arange(count) + 0.5) / count
    half = 0.5 * float(jnp.sum((observed - mean[None]) ** 2))
    return scipy.stats.invgamma.ppf(levels, 1 + observed.size / 2, scale=1 + half)


def digit_images(label: int | None = None) -> np.ndarray:
    """All digits `[N, 64]`, or those of one class, in [0, 1]."""
    data = [arrays("digits", split) for split in ("train", "test")]
    image, labels = (np.concatenate([d[name] for d in data]) for name in ("image", "label"))
    image = image.reshape(len(image), -1).astype(np.float32) / 16
    return image if label is None else image[labels == label]
