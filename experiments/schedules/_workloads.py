"""What is trained in the measurement of steps to a goal: images by an MLP and SGD, bytes by a transformer and Adam."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.engine import init_mlp, mlp
from experiments.shared.backbones import ByteTransformer, functional
from experiments.shared.fashion import fashion
from experiments.shared.text_domains import DOMAINS, byte_losses, text_domains

CLASSES = 10


class Task(NamedTuple):
    """A model, its losses and its optimizer, for programs that are compiled once for each batch size.

    Attributes:
      start: `start(key) -> params`.
      losses: `losses(params, batch) -> [B]`.
      optimizer: `optimizer(rate, warmup_steps)`, of traced numbers.
    """

    start: Callable[[jax.Array], Any]
    losses: Callable[[Any, Any], jax.Array]
    optimizer: Callable[[jax.Array, jax.Array], optax.GradientTransformationExtraArgs]


class Workload(NamedTuple):
    """A task with its data and how it is measured.

    Attributes:
      task: what is trained.
      train: pytree of arrays `[N, ...]`.
      held_out: pytree of arrays, for the loss that has a goal.
      batch_sizes: increasing; the first is taken to be the best one for the data.
      examples: how many the smallest batch size sees until the goal, which is the loss that it has by then.
      rate: learning rate in the middle of the first grid, for the smallest batch size.
      noise_batch: batch size of the run along which the noise scale is measured.
      spacing: ratio of the steps of two evaluations.
    """

    task: Task
    train: Any
    held_out: Any
    batch_sizes: tuple[int, ...]
    examples: int
    rate: float
    noise_batch: int
    spacing: float


@functools.cache
def image_task(hidden: int, momentum: float | None = None) -> Task:
    """An MLP with one hidden layer on 14x14 pixels, and SGD at a constant rate."""

    def losses(params, batch):
        logits = mlp(params, batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

    sizes = (14**2, hidden, CLASSES)
    return Task(lambda key: init_mlp(key, sizes), losses, lambda rate, warmup: optax.sgd(rate, momentum))


@functools.cache
def image_data(held_out: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Training images, and the first of those that are cut from the training set."""
    splits = fashion(2, validate=True)
    return splits["train"], {k: v[:held_out] for k, v in splits["test"].items()}


@functools.cache
def byte_task(width: int, depth: int, length: int) -> Task:
    """A transformer over bytes, and Adam at a constant rate after a linear warm-up."""

    def network(key):
        return functional(ByteTransformer(length=length, width=width, depth=depth, rngs=nnx.Rngs(key)))

    apply, _ = network(jax.random.key(0))

    def optimizer(rate, warmup):
        return optax.adam(lambda step: rate * jnp.minimum(1, (step + 1) / warmup), b2=0.99)

    return Task(lambda key: network(key)[1], functools.partial(byte_losses, apply), optimizer)


@functools.cache
def byte_data(length: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of twelve domains to train on, and equally many held-out ones of each domain."""
    splits = text_domains(length, validate=True)
    each = splits["validation"]["tokens"].reshape(len(DOMAINS), -1, length)
    return splits["train"]["tokens"], each[:, : held_out // len(DOMAINS)].reshape(-1, length)
