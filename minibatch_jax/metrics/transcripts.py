"""How far transcripts are from each other: edit distances and error rates of token sequences, many pairs at once."""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_integer, check_shape
from minibatch_jax._loops import bind, scan
from minibatch_jax._vector import as_index


def edit_distances(
    tokens: jax.Array, lengths: jax.Array, references: jax.Array, reference_lengths: jax.Array
) -> jax.Array:
    """Return the edit distance of each sequence to its reference: insertions, deletions and replacements of one token.

    One step of a scan for each token, so T steps of work N R. Tokens beyond a length are padding and may be anything.

    Args:
      tokens: `[N, T]` int.
      lengths: `[N]` int, how many tokens each sequence has, from 0 to T.
      references: `[N, R]` int.
      reference_lengths: `[N]` int, from 0 to R.

    Returns:
      `[N]` int32; -1, inside `jit`, where a length is out of range.

    Raises:
      TypeError: if an argument does not hold integers.
      ValueError: if shapes do not match or, of concrete arrays, a length is out of range.

    References:
      Wagner & Fischer, The string-to-string correction problem, Journal of the ACM 21(1), 1974.

    Examples:
      >>> tokens, references = jnp.array([[1, 2, 3], [7, 0, 0]]), jnp.array([[1, 3, 0, 0], [4, 5, 6, 7]])
      >>> edit_distances(tokens, jnp.array([3, 1]), references, jnp.array([2, 4])).tolist()
      [1, 3]
    """
    check_sequences("tokens", tokens, lengths)
    check_sequences("references", references, reference_lengths, tokens.shape[0])
    lengths, reference_lengths = as_index(lengths), as_index(reference_lengths)
    dtype = max(as_index(tokens).dtype, as_index(references).dtype, key=lambda dtype: dtype.itemsize)
    references, places = references.astype(dtype), jnp.arange(references.shape[1] + 1, dtype=jnp.int32)
    first = jnp.broadcast_to(places[None], (tokens.shape[0], places.shape[0]))
    steps = tokens.astype(dtype).T, jnp.arange(tokens.shape[1], dtype=lengths.dtype)
    row, _ = scan(bind(_next_row, references, lengths, places), first, steps)
    valid = valid_lengths(tokens, lengths) & valid_lengths(references, reference_lengths)
    column = jnp.where(valid, reference_lengths, 0).astype(jnp.int32)[:, None]
    return jnp.where(valid, jnp.take_along_axis(row, column, axis=1)[:, 0], -1)


def error_rates(
    tokens: jax.Array, lengths: jax.Array, references: jax.Array, reference_lengths: jax.Array
) -> jax.Array:
    """Return the edit distance of each sequence to its reference, over the length of the reference but at least 1.

    With words as tokens this is the word error rate. It is above 1 where many tokens are too much, and it changes if
    sequence and reference change places. Normalize texts (case, punctuation, diacritics) before they become tokens.

    Args:
      tokens: `[N, T]` int.
      lengths: `[N]` int, how many tokens each sequence has, from 0 to T.
      references: `[N, R]` int.
      reference_lengths: `[N]` int, from 0 to R.

    Returns:
      `[N]` float32; NaN, inside `jit`, where a length is out of range.

    Raises:
      TypeError: if an argument does not hold integers.
      ValueError: if shapes do not match or, of concrete arrays, a length is out of range.

    Examples:
      >>> tokens, references = jnp.array([[1, 2, 3], [7, 8, 9]]), jnp.array([[1, 3], [7, 0]])
      >>> error_rates(tokens, jnp.array([3, 3]), references, jnp.array([2, 1])).tolist()
      [0.5, 2.0]
    """
    distances = edit_distances(tokens, lengths, references, reference_lengths)
    rates = distances.astype(jnp.float32) / jnp.maximum(reference_lengths, 1).astype(jnp.float32)
    return jnp.where(distances < 0, jnp.nan, rates)


def check_sequences(name: str, values: jax.Array, lengths: jax.Array, rows: int | None = None) -> None:
    """Raise unless these are integers `[N, T]` with lengths `[N]` that, where they are concrete, lie in [0, T]."""
    check_shape(name, values, (rows, None))
    check_integer(name, values)
    check_lengths(name, values, lengths)


def check_lengths(name: str, values: jax.Array, lengths: jax.Array) -> None:
    """Raise unless the lengths of `[N, T]` are integers `[N]` that, where they are concrete, lie in [0, T]."""
    check_shape(f"lengths of {name}", lengths, values.shape[:1])
    check_integer(f"lengths of {name}", lengths)
    if isinstance(lengths, jax.core.Tracer):
        return
    numbers = np.asarray(lengths)
    outside = numbers[(numbers < 0) | (numbers > values.shape[1])]
    if outside.size:
        raise ValueError(f"lengths of {name} has the entry {outside[0]}, wanted numbers in [0, {values.shape[1]}].")


def valid_lengths(values: jax.Array, lengths: jax.Array) -> jax.Array:
    """Return which lengths `[N]` of `[N, T]` lie in [0, T]."""
    return (lengths >= 0) & (lengths <= values.shape[1])


def _next_row(references, lengths, places, row, step):
    """Return the distances of one token more to all beginnings of the references, and nothing.

    An insertion looks at the entry before it, in the same row: the least of `entry - place` so far, plus the place.
    """
    token, number = step
    replaced = row[:, :-1] + (token[:, None] != references).astype(jnp.int32)
    without = jnp.concatenate([row[:, :1] + 1, jnp.minimum(row[:, 1:] + 1, replaced)], axis=1)
    moved = jax.lax.cummin(without - places[None], axis=1) + places[None]
    return jnp.where((number < lengths)[:, None], moved, row), None
