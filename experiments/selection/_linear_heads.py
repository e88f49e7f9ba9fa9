"""A linear head of a few labels, trained on all of them at once, and what it says of a pool."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import minimize, weighted_gradient


class Fit(NamedTuple):
    """How a head is trained: by Adam from zeros, on features of unit length times `scale`, with weight decay."""

    steps: int
    learning_rate: float
    scale: float
    decay: float


@functools.partial(jax.jit, static_argnames=("fit", "classes"))
def train_head(features: jax.Array, labels: jax.Array, weights: jax.Array, *, fit: Fit, classes: int) -> jax.Array:
    """The head `[D + 1, C]` after training on rows `[L, D]` with these weights `[L]`; rows of weight 0 are padding."""
    inputs = with_constant(features, fit.scale)

    def losses(head, batch):
        return optax.softmax_cross_entropy_with_integer_labels(inputs @ head, batch)

    given = weighted_gradient(losses)
    shares = weights / jnp.sum(weights)
    classes_of_rows = jnp.maximum(labels, 0)

    def gradient(head, _):
        return given(head, classes_of_rows, shares)[1] + fit.decay * head

    start = jnp.zeros((inputs.shape[1], classes))
    return minimize(optax.adam(fit.learning_rate), gradient, start, jnp.arange(fit.steps))


def with_constant(features: jax.Array, scale: float) -> jax.Array:
    """Inputs `[N, D + 1]` of the head."""
    return jnp.pad(scale * features, ((0, 0), (0, 1)), constant_values=1.0)


@functools.partial(jax.jit, static_argnames="scale")
def logits_of(head: jax.Array, features: jax.Array, scale: float) -> jax.Array:
    """Class scores `[N, C]`."""
    return with_constant(features, scale) @ head


def labeled_rows(labels: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a label and their classes, `[capacity]` each; row 0 and class -1 for padding, so that shapes stay."""
    rows = np.flatnonzero(labels >= 0)[:capacity]
    padded, classes = np.zeros(capacity, np.int32), np.full(capacity, -1, np.int32)
    padded[: len(rows)], classes[: len(rows)] = rows, labels[rows]
    return padded, classes


def bootstrap_weights(seed: int, classes: np.ndarray, members: int) -> Any:
    """Weights `[M, L]` of rows drawn with replacement for each member of a committee."""
    rng = np.random.default_rng(seed)
    return rng.poisson(1.0, (members, len(classes))).astype(np.float32) * (classes >= 0) + 1e-6 * (classes >= 0)
