"""Draw items in chunks, each by Gumbel-top-k with logits that depend on the chunks before it."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_choice, check_count, check_number
from minibatch_jax._loops import bind, scan

Carry = TypeVar("Carry")
FIRST_CHUNKS = ("learnability", "uniform")


def chunked_draw(
    key: jax.Array | int,
    allowed: jax.Array,
    carry: Carry,
    logits_of: Callable[[Carry], jax.Array],
    absorb: Callable[[Carry, jax.Array, jax.Array], Carry],
    *,
    k: int,
    num_chunks: int,
    first_chunk: str,
    temperature: float,
) -> jax.Array:
    """Draw k of B items without replacement in `num_chunks` chunks.

    Args:
      key: typed PRNG key or int seed.
      allowed: `[B]` bool, which items may be drawn.
      carry: state that the logits depend on, before the first draw.
      logits_of: `logits_of(carry) -> [B]`, as `bind` returns it.
      absorb: `absorb(carry, chosen, valid) -> carry`, as `bind` returns it, adds a chunk of `[k / num_chunks]` indices;
        `valid` is False for places where no item was left.
      k: how many to draw, 1 <= k <= B, a multiple of `num_chunks`.
      num_chunks: number of draws in sequence.
      first_chunk: "learnability" for the logits of the first carry, "uniform" for zeros.
      temperature: divides the logits, positive.

    Returns:
      `[k]` int32, in order of the draws; B where no item was left.

    Raises:
      TypeError: if a count is not a static int or the key is a raw array.
      ValueError: if k is not in [1, B] or not a multiple of `num_chunks`, or an option is unknown.
    """
    check_chunks(k, num_chunks, first_chunk, temperature)
    size = allowed.shape[0]
    check_count("k", k, size, "the number of items")
    keys = jax.random.split(as_key(key), num_chunks)
    logits = logits_of(carry)
    if first_chunk == "uniform":
        logits = jnp.zeros_like(logits)
    head = _draw(keys[0], logits, allowed, temperature, k // num_chunks)
    step = bind(_draw_chunk, logits_of, absorb, temperature)
    _, tail = scan(step, (carry, head), keys[1:])
    chosen, valid = (jnp.concatenate([first[None], rest]).reshape(k) for first, rest in zip(head, tail))
    return jnp.where(valid, chosen, size)


def _draw_chunk(logits_of, absorb, temperature, state, chunk_key):
    carry, (chosen, valid, free) = state
    carry = absorb(carry, chosen, valid)
    drawn = _draw(chunk_key, logits_of(carry), free, temperature, chosen.shape[0])
    return (carry, drawn), drawn[:2]


def _draw(key, logits, free, temperature, number):
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    values, chosen = jax.lax.top_k(jnp.where(free, logits / temperature + noise, -jnp.inf), number)
    valid = values > -jnp.inf
    return chosen, valid, free.at[jnp.where(valid, chosen, free.shape[0])].set(False, mode="drop")


def check_chunks(k: int, num_chunks: int, first_chunk: str, temperature: float) -> None:
    """Raise unless k is a multiple of `num_chunks` and the options are known."""
    check_count("k", k)
    check_count("num_chunks", num_chunks, k, "k")
    if k % num_chunks:
        raise ValueError(f"k is {k}, wanted a multiple of num_chunks = {num_chunks}.")
    check_choice("first_chunk", first_chunk, FIRST_CHUNKS)
    check_number("temperature", temperature, 0, open_low=True)
