"""Lines of handwritten digits, each in a slant of its own, and two readers of upright digits that transcribe them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.datasets import arrays
from experiments.engine import init_mlp, minimize, mlp, weighted_gradient
from experiments.shared.mlp import Layers

DIGITS, SIDE = 10, 14
SHORTEST, LONGEST, LIMIT = 4, 8, 12
"""digits of a line, and the most tokens of a transcript"""
FOLLOWERS = 3
"""digits that usually come after a digit"""
USUAL = 0.8


class Lines(NamedTuple):
    """N lines.

    Attributes:
      images: `[N, LONGEST, SIDE * SIDE]` in [0, 1].
      digits: `[N, LONGEST]` int32, what is written.
      lengths: `[N]` int32.
    """

    images: jax.Array
    digits: jax.Array
    lengths: jax.Array


class Transcripts(NamedTuple):
    """What a reader says about N lines.

    Attributes:
      tokens: `[N, LIMIT]` int32.
      lengths: `[N]` int32.
      log_probabilities: `[N, LIMIT]`, of the tokens.
      entropies: `[N, LIMIT]`, of the prediction of each token, in nats.
      loops: `[N]` bool, where it was made to repeat itself.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probabilities: jax.Array
    entropies: jax.Array
    loops: np.ndarray


def language(rng: np.random.Generator) -> np.ndarray:
    """Probabilities `[10, 10]` of the next digit: 0.8 for three of them together."""
    usual = np.argsort(rng.random((DIGITS, DIGITS)), axis=1) < FOLLOWERS
    return np.where(usual, USUAL / FOLLOWERS, (1 - USUAL) / (DIGITS - FOLLOWERS))


def write_lines(
    rng: np.random.Generator, count: int, grammar: np.ndarray, pixels: np.ndarray, labels: np.ndarray, slant: float
) -> Lines:
    """Lines whose digits follow the grammar, each digit another image, all of a line turned by one angle."""
    digits = np.zeros((count, LONGEST), np.int32)
    digits[:, 0] = rng.integers(0, DIGITS, count)
    for place in range(1, LONGEST):
        steps = np.cumsum(grammar[digits[:, place - 1]], axis=1)
        digits[:, place] = np.minimum((rng.random((count, 1)) > steps).sum(axis=1), DIGITS - 1)
    images = np.zeros((count, LONGEST, 28, 28), np.float32)
    for digit in range(DIGITS):
        rows = np.flatnonzero(labels == digit)
        places = digits == digit
        images[places] = pixels[rng.choice(rows, places.sum())]
    angles = rng.uniform(-slant, slant, count) * np.pi / 180
    lengths = rng.integers(SHORTEST, LONGEST + 1, count).astype(np.int32)
    turned = turn(jnp.asarray(images), jnp.asarray(angles, jnp.float32))
    return Lines(turned, jnp.asarray(digits), jnp.asarray(lengths))


@jax.jit
def turn(images: jax.Array, angles: jax.Array) -> jax.Array:
    """Images `[N, L, 28, 28]`, all of a line turned by its angle, at half the resolution, `[N, L, 196]`."""
    axis = jnp.arange(28.0) - 13.5
    y, x = jnp.meshgrid(axis, axis, indexing="ij")

    def one(line):
        rows, angle = line
        cosine, sine = jnp.cos(angle), jnp.sin(angle)
        source = [cosine * y - sine * x + 13.5, sine * y + cosine * x + 13.5]
        turned = jax.vmap(lambda image: jax.scipy.ndimage.map_coordinates(image, source, order=1))(rows)
        return turned.reshape(-1, SIDE, 2, SIDE, 2).mean(axis=(2, 4)).reshape(-1, SIDE * SIDE)

    return jax.lax.map(one, (images, angles))


@functools.partial(jax.jit, static_argnames=("hidden", "steps"))
def reader(key: jax.Array, images: jax.Array, labels: jax.Array, hidden: int, steps: int) -> Layers:
    """An MLP that reads single digits, trained on upright ones."""
    init_key, key = jax.random.split(key)
    gradient = weighted_gradient(lambda params, batch: digit_losses(params, *batch))
    rows = jax.random.randint(key, (steps, 64), 0, len(labels))

    def step(params, chosen):
        return gradient(params, (images[chosen], labels[chosen]), jnp.full(64, 1 / 64))[1]

    return minimize(optax.adam(2e-3), step, init_mlp(init_key, (SIDE * SIDE, hidden, DIGITS)), rows)


def digit_losses(params: Layers, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each digit `[B]`."""
    return optax.softmax_cross_entropy_with_integer_labels(mlp(params, images), labels)


@jax.jit
def read(params: Layers, lines: Lines) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens, their log-probabilities and the entropies of the predictions, `[N, LONGEST]` each."""
    logs = jax.nn.log_softmax(mlp(params, lines.images.reshape(-1, SIDE * SIDE)))
    logs = logs.reshape(*lines.digits.shape, DIGITS)
    entropies = -jnp.sum(jnp.exp(logs) * logs, axis=-1)
    return jnp.argmax(logs, axis=-1).astype(jnp.int32), jnp.max(logs, axis=-1), entropies


def transcribe(params: Layers, lines: Lines, rng: np.random.Generator, loops: float) -> Transcripts:
    """What a reader reads; on a share of the lines it gets stuck, and repeats two tokens up to the limit, very sure."""
    found = [np.array(x) for x in read(params, lines)]
    tokens, logs, entropies = (np.pad(x, ((0, 0), (0, LIMIT - LONGEST))) for x in found)
    lengths, stuck = np.array(lines.lengths), rng.random(len(lines.digits)) < loops
    for row in np.flatnonzero(stuck):
        start = rng.integers(2, SHORTEST + 1)
        tokens[row, start:] = np.resize(tokens[row, start - 2 : start], LIMIT - start)
        logs[row, start:], entropies[row, start:], lengths[row] = np.log(0.98), 0.1, LIMIT
    return Transcripts(jnp.asarray(tokens), jnp.asarray(lengths), jnp.asarray(logs), jnp.asarray(entropies), stuck)


@functools.cache
def upright(validate: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Digits in four disjoint parts: for the teacher, the proxy, the lines to transcribe and the lines to test on."""
    train, test = arrays("mnist", "train"), arrays("mnist", "test")
    ends = {"teacher": (0, 3000), "proxy": (3000, 6000), "lines": (6000, 26_000), "test": (26_000, 31_000)}
    parts = {name: (train["image"][a:b, ..., 0] / 255.0, train["label"][a:b]) for name, (a, b) in ends.items()}
    if not validate:
        parts["test"] = test["image"][:5000, ..., 0] / 255.0, test["label"][:5000]
    return {name: (images.astype(np.float32), labels.astype(np.int32)) for name, (images, labels) in parts.items()}


def halved(images: np.ndarray) -> jax.Array:
    """Images `[N, 28, 28]` at half the resolution, `[N, 196]`."""
    return jnp.asarray(images.reshape(-1, SIDE, 2, SIDE, 2).mean(axis=(2, 4)).reshape(-1, SIDE * SIDE))
