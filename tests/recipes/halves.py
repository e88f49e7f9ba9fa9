"""Pairs for contrastive learning: the upper half of a digit and the lower half of one, each with its own embedder."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax.selection.jest_embeddings import PairEmbeddings
from tests.recipes import digits

SCALE, BIAS = 10.0, -5.0
FIT = 400  # steps of the reference


def init() -> Any:
    return {"upper": digits.init_embedder(2), "lower": digits.init_embedder(3)}


def embed(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    """Return the embeddings `[B, 16]` of both halves, each seen as an image whose other half is blank."""
    return digits.embed(params["upper"], batch["upper"]), digits.embed(params["lower"], batch["lower"])


def coarse(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
    """Return embeddings from a quarter of the pixels: what a network of flexible patches does at low cost."""
    return embed(params, jax.tree.map(_pooled, batch))


def _pooled(x: jax.Array) -> jax.Array:
    blocks = x.reshape(-1, 4, 2, 4, 2)
    return jnp.broadcast_to(jnp.mean(blocks, axis=(2, 4), keepdims=True), blocks.shape).reshape(x.shape)


def embeddings(params: Any, batch: Any) -> PairEmbeddings:
    """Return what the sigmoid loss of pairs reads, at full resolution."""
    return PairEmbeddings(*embed(params, batch), SCALE, BIAS)


def pairs_of(x: jax.Array, other: jax.Array) -> dict[str, jax.Array]:
    """Return the upper halves of images and the lower halves of others."""
    upper = jnp.arange(digits.PIXELS) < digits.PIXELS // 2
    return {"upper": jnp.where(upper[None], x, 0), "lower": jnp.where(upper[None], 0, other)}


@functools.cache
def mismatched() -> tuple[dict[str, jax.Array], np.ndarray]:
    """Return 1024 pairs of which half are of two different images, and the mask of these."""
    x = np.asarray(digits.train()["x"])[:1024]
    wrong = np.random.default_rng(2).random(len(x)) < 0.5
    other = x.copy()
    other[wrong] = np.roll(x[wrong], 1, axis=0)
    return pairs_of(jnp.asarray(x), jnp.asarray(other)), wrong


@functools.cache
def reference() -> Any:
    """Return towers trained at both resolutions on 512 clean pairs, which are not among the mismatched ones."""
    x = digits.train()["x"][1024:]
    clean = pairs_of(x, x)

    def step(carry, key):
        params, opt_state = carry
        rows = jax.random.choice(key, len(x), (digits.BATCH,))
        batch = jax.tree.map(lambda a: a[rows], clean)
        updates, opt_state = digits.OPTIMIZER.update(jax.grad(loss)(params, batch), opt_state)
        return (jax.tree.map(jnp.add, params, updates), opt_state), None

    start = init(), digits.OPTIMIZER.init(init())
    return jax.jit(lambda: jax.lax.scan(step, start, jax.random.split(jax.random.key(4), FIT))[0][0])()


def loss(params: Any, batch: Any) -> jax.Array:
    """Return the mean sigmoid loss of a pair with all others, summed over both resolutions."""
    return sum(jnp.mean(jnp.sum(_pair_losses(*f(params, batch)), axis=1)) for f in (embed, coarse))


def _pair_losses(first: jax.Array, second: jax.Array) -> jax.Array:
    logits = SCALE * first @ second.T + BIAS
    return jax.nn.softplus(jnp.where(jnp.eye(len(logits), dtype=bool), -logits, logits))


@functools.partial(jax.jit, static_argnames="embedder")
def _recall(params: Any, batch: Any, embedder: Any) -> jax.Array:
    first, second = embedder(params, batch)
    similarities = first @ second.T
    return jnp.mean(jnp.sum(similarities > jnp.diagonal(similarities)[:, None], axis=1) < 10)


def recall(params: Any, embedder: Any = embed) -> float:
    """Return how often the right lower half of 256 is among the ten nearest: 0.04 by chance."""
    x = digits.held_out()["x"]
    return float(_recall(params, pairs_of(x, x), embedder))
