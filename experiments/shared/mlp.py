"""A multilayer perceptron on plain arrays, and labels made wrong on purpose."""

import jax
import jax.numpy as jnp
import numpy as np

Layers = list[tuple[jax.Array, jax.Array]]


def init_mlp(key: jax.Array, sizes: tuple[int, ...]) -> Layers:
    """Kernels `[m, n]`, normal with variance 2/m (He), and zero biases `[n]`, for each pair of sizes in a row."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [(jax.random.normal(k, (m, n)) * (2 / m) ** 0.5, jnp.zeros(n)) for k, m, n in zip(keys, sizes, sizes[1:])]


def mlp(layers: Layers, inputs: jax.Array) -> jax.Array:
    """Outputs `[B, sizes[-1]]` of inputs `[B, sizes[0]]`, with ReLU between the layers."""
    for kernel, bias in layers[:-1]:
        inputs = jax.nn.relu(inputs @ kernel + bias[None])
    kernel, bias = layers[-1]
    return inputs @ kernel + bias[None]


def with_wrong_labels(labels: np.ndarray, rate: float, num_classes: int, seed: int) -> np.ndarray:
    """Replace exactly round(rate * N) of the labels by another class, all other classes being equally likely."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(labels))[: round(rate * len(labels))]
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + rng.integers(1, num_classes, len(wrong))) % num_classes
    return noisy
