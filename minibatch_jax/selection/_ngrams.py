"""Hashes of the n-grams of a row of tokens."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from minibatch_jax._checks import check_count, check_integer, check_shape, mask_or_all
from minibatch_jax._loops import bind, scan

NO_NGRAM = 0xFFFFFFFF


def token_rows(name: str, tokens: jax.Array, ngram: int, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return tokens `[N, T]` as uint32, and which of them exist: those that the mask allows and that are not negative.

    Raises unless an n-gram fits into a row, and all tokens that are known while tracing into int32.
    """
    check_shape(name, tokens, (None, None))
    check_integer(name, tokens)
    _check_range(name, tokens)
    check_count("ngram", ngram, tokens.shape[1], "the number of tokens of a row; pad with -1")
    exists = (tokens >= 0) & mask_or_all("mask", mask, tokens.shape)
    return tokens.astype(jnp.uint32), exists


def _check_range(name: str, tokens: Any) -> None:
    """Raise if tokens are known that int32 does not hold: 64-bit hashes, or the -1 of padding in an unsigned dtype."""
    limits = jnp.iinfo(jnp.int32)
    kind = jnp.iinfo(tokens.dtype)
    if isinstance(tokens, Tracer) or (kind.min >= limits.min and kind.max <= limits.max) or not tokens.size:
        return
    low, high = int(np.min(tokens)), int(np.max(tokens))
    if low < limits.min or high > limits.max:
        raise ValueError(
            f"{name} holds {low if low < limits.min else high}, wanted int32, 0 to {limits.max} or -1 as padding; "
            "hash words to 31 bits, as zlib.crc32(word.encode()) >> 1."
        )


def mixed(x: jax.Array) -> jax.Array:
    """Return uint32 numbers, one for each uint32 number, with all bits mixed."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return x ^ (x >> jnp.uint32(16))


def ngram_hashes(tokens: jax.Array, exists: jax.Array, ngram: int, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the hashes `[T - ngram + 1]` uint32 of the n-grams of one row `[T]`, and which of them exist.

    An n-gram exists if all its tokens do. A row with tokens and without n-gram has one hash, that of all its tokens.
    """
    size = tokens.shape[0] - ngram + 1
    codes = mixed(tokens ^ seed)
    hashes, found = jnp.full(size, seed, jnp.uint32), jnp.ones(size, bool)
    for start in range(ngram):
        hashes = mixed(hashes + codes[start : start + size])
        found &= exists[start : start + size]
    whole = scan(_add_token, mixed(seed), (codes, exists))[0]
    alone = (jnp.arange(size, dtype=jnp.int32) == 0) & jnp.any(exists) & ~jnp.any(found)
    return jnp.where(alone, whole, hashes), found | alone


def row_hashes(numbers: jax.Array, seed: int) -> jax.Array:
    """Return a hash `[N]` uint32 of each row `[N, R]` of uint32 numbers."""
    start = jnp.full(numbers.shape[0], seed, jnp.uint32)
    return scan(bind(_add_number), start, numbers.T)[0]


def _add_token(hashed, token):
    code, exists = token
    return jnp.where(exists, mixed(hashed + code), hashed), None


def _add_number(hashed, number):
    return mixed(hashed + number), None
