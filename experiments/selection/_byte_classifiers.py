"""A small transformer that reads the first bytes of a text: trained on unlabeled texts, then on those with labels.

No sentence encoder that was trained elsewhere is used. `pretrained` trains the transformer to predict the next byte of
the unlabeled pool. Mean and maximum of its last tokens, standardized over the pool, are what a head or a contrastive
loss sees of a text.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.engine import minimize, weighted_gradient
from experiments.shared.backbones import Apply, ByteTransformer, functional
from experiments.shared.text_domains import byte_losses

SPACE = 32


class Size(NamedTuple):
    """Of the transformer: bytes of a text that it reads, channels, blocks; and rows of a batch."""

    length: int = 64
    width: int = 32
    depth: int = 2
    batch_size: int = 32


class Classifier(NamedTuple):
    """Parameters of the transformer, and the head `[2 W, C]` on the standardized features of a text."""

    network: Any
    head: Any


def first_bytes(texts: list[bytes], length: int) -> np.ndarray:
    """The first bytes `[N, L]` of the texts, uint8, with spaces after the end."""
    return np.stack([np.frombuffer(text[:length].ljust(length, b" "), np.uint8) for text in texts])


def windows(texts: list[bytes], length: int) -> np.ndarray:
    """All texts in consecutive windows `[M, L]`."""
    joined = b"\n".join(texts)
    return np.frombuffer(joined[: len(joined) // length * length], np.uint8).reshape(-1, length)


@functools.cache
def apply_of(size: Size) -> Apply:
    """The transformer without its parameters."""
    return functional(_network(size, nnx.Rngs(0)))[0]


def _network(size: Size, rngs: nnx.Rngs) -> ByteTransformer:
    return ByteTransformer(length=size.length, width=size.width, depth=size.depth, rngs=rngs)


@functools.partial(jax.jit, static_argnames=("size", "steps"))
def pretrained(tokens: jax.Array, key: jax.Array, *, size: Size, steps: int, learning_rate: float) -> Any:
    """Parameters after training to predict the next byte of windows `[M, L]`, drawn at random."""
    _, start = functional(_network(size, nnx.Rngs(key)))
    given = weighted_gradient(functools.partial(byte_losses, apply_of(size)))

    def gradient(params, key):
        batch = tokens[jax.random.randint(key, (size.batch_size,), 0, len(tokens))]
        return given(params, batch, jnp.full(size.batch_size, 1 / size.batch_size))[1]

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    return minimize(optimizer, gradient, start, jax.random.split(jax.random.fold_in(key, 1), steps))


def features(size: Size, network: Any, tokens: jax.Array) -> jax.Array:
    """Mean and maximum `[B, 2 W]` of the last tokens of each text `[B, L]`, without the spaces after its end."""
    hidden = apply_of(size).features(network, tokens.astype(jnp.int32))
    blank = jnp.flip(jnp.cumprod(jnp.flip(tokens == SPACE, 1).astype(jnp.int32), axis=1), 1)
    real = (blank == 0).at[:, 0].set(True)[:, :, None]
    mean = jnp.sum(hidden * real, axis=1) / jnp.sum(real, axis=1)
    return jnp.concatenate([mean, jnp.max(jnp.where(real, hidden, -jnp.inf), axis=1)], axis=1)


class Standard(NamedTuple):
    """Mean and standard deviation `[2 W]` of the features of unlabeled texts, before the training on labels."""

    mean: jax.Array
    deviation: jax.Array

    def __call__(self, vectors: jax.Array) -> jax.Array:
        """The vectors `[B, 2 W]` with mean 0 and variance 1."""
        return (vectors - self.mean[None]) / self.deviation[None]


def standard_of(vectors: jax.Array) -> Standard:
    """Mean and standard deviation of these features."""
    return Standard(jnp.mean(vectors, axis=0), jnp.std(vectors, axis=0) + 1e-3)


@functools.partial(jax.jit, static_argnames=("size", "steps", "classes"))
def fine_tuned(
    network: Any,
    standard: Standard,
    tokens: jax.Array,
    labels: jax.Array,
    count: jax.Array,
    key: jax.Array,
    *,
    size: Size,
    steps: int,
    classes: int,
    learning_rate: float,
) -> Classifier:
    """Transformer and head after training on the first `count` of the rows `[N, L]` with labels `[N]`."""

    def losses(params, batch):
        logits = standard(features(size, params.network, batch["tokens"])) @ params.head
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

    given = weighted_gradient(losses)

    def gradient(params, key):
        rows = jax.random.randint(key, (size.batch_size,), 0, count)
        batch = {"tokens": tokens[rows], "label": labels[rows]}
        return given(params, batch, jnp.full(size.batch_size, 1 / size.batch_size))[1]

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    start = Classifier(network, jnp.zeros((2 * size.width, classes)))
    return minimize(optimizer, gradient, start, jax.random.split(key, steps))


@functools.partial(jax.jit, static_argnames="size")
def all_features(network: Any, tokens: jax.Array, *, size: Size) -> jax.Array:
    """Features `[N, 2 W]` of many texts, 100 at a time."""
    return jax.lax.map(lambda row: features(size, network, row[None])[0], tokens, batch_size=100)
