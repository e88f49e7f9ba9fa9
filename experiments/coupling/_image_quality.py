"""Fréchet distance of images in the features of a small classifier, which is trained on the real ones."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine.arms import minimize
from experiments.shared.mlp import init_mlp, mlp

NUM_FEATURES = 64
STEPS = 1500
BATCH_SIZE = 128


def train_classifier(images: np.ndarray, labels: np.ndarray, num_classes: int = 10, steps: int = STEPS):
    """Parameters of a small classifier of images `[N, D]`; the same for the same images."""
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    params = init_mlp(jax.random.key(0), (images.shape[1], 256, NUM_FEATURES, num_classes))
    x, y = jnp.asarray(images), jnp.asarray(labels)

    def loss_fn(params, rows):
        logits = mlp(params, x[rows])
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, y[rows]))

    def gradient(params, key):
        return jax.grad(loss_fn)(params, jax.random.randint(key, (BATCH_SIZE,), 0, len(x)))

    train = jax.jit(functools.partial(minimize, optimizer, gradient))
    return train(params, jax.random.split(jax.random.key(1), steps))


@jax.jit
def features(classifier, images: jax.Array) -> jax.Array:
    """Activations `[N, NUM_FEATURES]` of the last hidden layer."""
    return jax.nn.relu(mlp(classifier[:-1], images))


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of the normal laws with the means and covariances of `x` and `y` `[N, F]`."""
    (mean_x, cov_x), (mean_y, cov_y) = ((z.mean(0), np.cov(z, rowvar=False)) for z in (_double(x), _double(y)))
    root = _square_root(cov_x)
    between = _square_root(root @ cov_y @ root)
    return float(((mean_x - mean_y) ** 2).sum() + np.trace(cov_x + cov_y - 2 * between))


def frechet_to(classifier, images: np.ndarray) -> Callable[[jax.Array], float]:
    """The Fréchet distance of images to the given ones, as a function."""
    wanted = np.asarray(features(classifier, jnp.asarray(images)))
    return lambda x: frechet_distance(np.asarray(features(classifier, x)), wanted)


def _double(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64)


def _square_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
