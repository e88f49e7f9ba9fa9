"""A tiny transformer over bytes whose last block can be run again with another value projection."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

VOCABULARY = 128
HEADS = 4

Params = dict[str, Any]


def init_model(key: jax.Array, width: int, layers: int, length: int) -> Params:
    """Embeddings, blocks and an output layer, normal with variance 1/inputs."""
    keys = iter(jax.random.split(key, 6 * layers + 3))

    def matrix(m, n):
        return jax.random.normal(next(keys), (m, n)) * m**-0.5

    def block():
        square = {name: matrix(width, width) for name in ("query", "key", "value", "out")}
        return {**square, "up": matrix(width, 4 * width), "down": matrix(4 * width, width)}

    return {
        "bytes": matrix(VOCABULARY, width),
        "places": matrix(length, width),
        "blocks": [block() for _ in range(layers)],
        "logits": matrix(width, VOCABULARY),
    }


def trunk(params: Params, tokens: jax.Array) -> jax.Array:
    """What enters the last block, `[B, L, width]`, for tokens `[B, L]`; each place sees the earlier tokens only."""
    before = jnp.concatenate([jnp.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)
    hidden = params["bytes"][before] + params["places"][None]
    for block in params["blocks"][:-1]:
        hidden = _block(block, hidden)
    return hidden


def head_losses(params: Params, hidden: jax.Array, tokens: jax.Array, value: jax.Array) -> jax.Array:
    """Cross-entropy of each window `[B]`, in nats for a byte, with `value` as value projection of the last block."""
    hidden = _block({**params["blocks"][-1], "value": value}, hidden)
    logits = _normalized(hidden) @ params["logits"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, tokens), axis=1)


def window_losses(params: Params, tokens: jax.Array) -> jax.Array:
    """Cross-entropy of each window `[B]`, in nats for a byte."""
    return head_losses(params, trunk(params, tokens), tokens, params["blocks"][-1]["value"])


def _block(block: Params, x: jax.Array) -> jax.Array:
    size, length, width = x.shape

    def heads(matrix):
        return (normed @ matrix).reshape(size, length, HEADS, width // HEADS)

    normed = _normalized(x)
    query, key, value = (heads(block[name]) for name in ("query", "key", "value"))
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
    x = x + mixed.reshape(x.shape) @ block["out"]
    return x + jax.nn.gelu(_normalized(x) @ block["up"]) @ block["down"]


def _normalized(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
