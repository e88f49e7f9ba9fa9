"""Handwritten digits and the small networks that all recipes share, so that they share shapes and programs too."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

BATCH = 64  # rows of a batch
STEPS = 150  # of training
CLASSES = 10
PIXELS = 64  # of an image
HIDDEN = 64
DIMENSIONS = 16  # of an embedding
OPTIMIZER = optax.adam(5e-3)
KEY = jax.random.key  # what a recipe is given: `digits.KEY(0)`

Batch = dict[str, jax.Array]


@functools.cache
def split() -> tuple[Batch, Batch]:
    """Return 1536 images to train on and 256 to test with: "x" `[N, 64]` in [0, 1] and labels "y" `[N]`."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    data = {"x": (images[order] / 16).astype(np.float32), "y": labels[order].astype(np.int32)}
    with jax.ensure_compile_time_eval():  # a recipe that is traced may be the first to ask
        parts = [{k: jnp.asarray(a[some]) for k, a in data.items()} for some in (slice(1536), slice(1536, 1792))]
    return parts[0], parts[1]


def train() -> Batch:
    return split()[0]


def held_out() -> Batch:
    return split()[1]


@functools.cache
def noisy(fraction: float = 0.4, seed: int = 1) -> tuple[Batch, np.ndarray]:
    """Return the images to train on with a wrong label for a fraction of them, and the mask `[N]` of the wrong ones."""
    rng, data = np.random.default_rng(seed), train()
    wrong = rng.random(len(data["y"])) < fraction
    shift = rng.integers(1, CLASSES, len(wrong))
    labels = np.where(wrong, (np.asarray(data["y"]) + shift) % CLASSES, data["y"])
    return data | {"y": jnp.asarray(labels, jnp.int32)}, wrong


@functools.cache
def domains(seed: int = 2) -> Batch:
    """Return the images to train on with a domain "d": 0 for digits below 5, 1 for others, 2 for 512 random labels."""
    rng, data = np.random.default_rng(seed), train()
    noise = rng.permutation(len(data["y"])) < 512
    labels = np.where(noise, rng.integers(0, CLASSES, len(noise)), data["y"])
    domain = np.where(noise, 2, np.asarray(data["y"]) >= 5)
    return data | {"y": jnp.asarray(labels, jnp.int32), "d": jnp.asarray(domain, jnp.int32)}


def run(recipe: Callable[..., Any], *arguments: Any) -> Any:
    """Run a recipe in `jit`, so that it compiles one program, and return what it returns as NumPy arrays."""
    arrays = {i: a for i, a in enumerate(arguments) if all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(a))}
    program = jax.jit(lambda arrays: recipe(*(arrays.get(i, a) for i, a in enumerate(arguments))))
    return jax.device_get(program(arrays))


def first(data: Batch, rows: int = BATCH) -> Batch:
    """Return the first rows of the data."""
    return jax.tree.map(lambda a: a[:rows], data)


# A classifier


def init_mlp(key: jax.Array, *sizes: int) -> Any:
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = itertools.pairwise(sizes)
    return [
        {"w": jax.random.normal(k, shape) / np.float32(shape[0] ** 0.5), "b": jnp.zeros((1, shape[1]))}
        for k, shape in zip(keys, shapes, strict=True)
    ]


def mlp(params: Any, x: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


@functools.cache
def init(seed: int = 0) -> Any:
    """Return the parameters of a classifier with one hidden layer."""
    return init_mlp(jax.random.key(seed), PIXELS, HIDDEN, CLASSES)


logits = mlp  # (params, x [B, 64]) -> [B, 10]


def losses(params: Any, batch: Batch) -> jax.Array:
    """Return the cross-entropy `[B]` of each example of a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch["x"]), batch["y"])


@jax.jit
def _accuracy(params: Any, data: Batch) -> jax.Array:
    return jnp.mean(jnp.argmax(logits(params, data["x"]), axis=1) == data["y"])


def accuracy(params: Any) -> float:
    """Return the fraction of the test images that a classifier gets right: 0.1 by chance, 0.97 when well trained."""
    return float(_accuracy(params, held_out()))


@functools.partial(jax.jit, static_argnames="steps")
def fit(params: Any, data: Batch, steps: int = 75) -> Any:
    """Return the parameters of a classifier after plain steps on random batches: where to start from, or a teacher."""

    def step(carry, key):
        params, opt_state = carry
        rows = jax.random.choice(key, len(data["y"]), (BATCH,))
        batch = jax.tree.map(lambda a: a[rows], data)
        grads = jax.grad(lambda p: jnp.mean(losses(p, batch)))(params)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    start = params, OPTIMIZER.init(params)
    return jax.lax.scan(step, start, jax.random.split(jax.random.key(11), steps))[0][0]


# An embedder


@functools.cache
def init_embedder(seed: int = 0) -> Any:
    """Return the parameters of an embedder."""
    return init_mlp(jax.random.key(seed), PIXELS, HIDDEN, DIMENSIONS)


def embed(params: Any, x: jax.Array) -> jax.Array:
    """Return embeddings `[B, 16]` of length one."""
    out = mlp(params, x)
    return out * jax.lax.rsqrt(jnp.sum(out**2, axis=1, keepdims=True) + 1e-12)


@jax.jit
def _precision(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    similarities = embeddings @ embeddings.T
    _, nearest = jax.lax.top_k(jnp.where(jnp.eye(len(labels), dtype=bool), -jnp.inf, similarities), 20)
    return jnp.mean(labels[nearest] == labels[:, None])


@jax.jit
def _embed_test(params: Any, x: jax.Array) -> jax.Array:
    return embed(params, x)


def precision(params: Any) -> float:
    """Return the fraction of the 20 nearest test images that share a class: see `pixel_precision` for the pixels'."""
    return float(_precision(_embed_test(params, held_out()["x"]), held_out()["y"]))


@functools.cache
def pixel_precision() -> float:
    """Return the precision of the pixels themselves, which an embedding must exceed."""
    x = held_out()["x"]
    return float(_precision(x / jnp.linalg.norm(x, axis=1, keepdims=True), held_out()["y"]))


def augment(key: jax.Array, x: jax.Array) -> jax.Array:
    """Return images `[B, 64]` shifted by up to a pixel, with another brightness and noise."""
    keys = jax.random.split(key, 3)
    padded = jnp.pad(x.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    corners = jax.random.randint(keys[0], (len(x), 2), 0, 3)
    shifted = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, at, (8, 8)))(padded, corners)
    bright = shifted.reshape(x.shape) * jax.random.uniform(keys[1], (len(x), 1), minval=0.7, maxval=1.3)
    return bright + 0.1 * jax.random.normal(keys[2], x.shape)


# A flow


@functools.cache
def init_velocity(seed: int = 0, scalars: int = 1, vectors: int = 1) -> Any:
    """Return the parameters of a velocity network that reads so many images `[B, 64]` and scalars `[B]`."""
    return init_mlp(jax.random.key(seed), vectors * PIXELS + scalars, 128, PIXELS)


def velocity(params: Any, *inputs: jax.Array) -> jax.Array:
    """Return velocities `[B, 64]` from images `[B, 64]` and scalars `[B]`, such as `(params, x, t)`."""
    return mlp(params, jnp.concatenate([a if a.ndim == 2 else a[:, None] for a in inputs], axis=1))


@jax.jit
def generate(params: Any, noise: jax.Array, *extra: jax.Array) -> jax.Array:
    """Return samples `[B, 64]` by 20 Euler steps of the velocities from noise `[B, 64]`; `extra` are more inputs."""

    def step(x, t):
        return x + velocity(params, x, jnp.full(len(x), t), *extra) / 20, None

    return jax.lax.scan(step, noise, jnp.arange(20, dtype=jnp.float32) / 20)[0]


def random_cost() -> float:
    """Return the mean squared distance of normal noise to an image."""
    return PIXELS + float(np.mean(np.sum(np.asarray(train()["x"]) ** 2, axis=1)))


@jax.jit
def _energy_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    def mean(a, b):
        return jnp.mean(jnp.sqrt(jnp.sum((a[:, None] - b[None]) ** 2, axis=-1)))

    return 2 * mean(x, y) - mean(x, x) - mean(y, y)


@functools.cache
def noise(seed: int = 5) -> jax.Array:
    """Return normal noise `[256, 64]` to generate from."""
    return jax.random.normal(jax.random.key(seed), (256, PIXELS))


def energy_distance(samples: jax.Array) -> float:
    """Return the energy distance `[]` of samples `[256, 64]` to the test images: 3.4 for noise, 0.03 for images."""
    return float(_energy_distance(samples, held_out()["x"]))


# A generator


@functools.cache
def init_generator(seed: int = 0) -> Any:
    """Return the parameters of a generator of images from codes `[B, 8]`."""
    return init_mlp(jax.random.key(seed), 8, 128, PIXELS)


def draw(params: Any, codes: jax.Array) -> jax.Array:
    """Return images `[B, 64]` of codes `[B, 8]`."""
    return jax.nn.sigmoid(mlp(params, codes))


@jax.jit
def _drawn(params: Any, codes: jax.Array) -> jax.Array:
    return draw(params, codes)


def drawn(params: Any, seed: int = 7) -> jax.Array:
    """Return 256 images of a generator: their energy distance is 2.1 before training."""
    return _drawn(params, jax.random.normal(jax.random.key(seed), (256, 8)))
