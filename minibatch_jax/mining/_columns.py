"""The nearest and the farthest masked column of each row, and the words that choose between them."""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice

KINDS = ("hard", "easy", "semihard")
FALLBACKS = ("drop", "easiest", "hardest")
_BLOCK = 32


def check_kinds(positive: str, negative: str, fallback: str) -> None:
    """Raise unless these are choices of `triplet_choice`."""
    check_choice("positive", positive, KINDS)
    check_choice("negative", negative, KINDS[:2] if positive == "semihard" else KINDS)
    check_choice("fallback", fallback, FALLBACKS)


def nearest(distances, mask):
    """Return the least masked distance of each row `[A]`, its first column, and whether the row has any."""
    masked = jnp.where(mask, distances, jnp.inf)
    least, column = jax.lax.platform_dependent(masked, cpu=_least_by_blocks, default=_least)
    return least, column, least < jnp.inf


def _least(distances):
    return jnp.min(distances, axis=1), jax.lax.argmin(distances, 1, jnp.int32)


def _least_by_blocks(distances):
    """Return the same as `_least` six times as fast on a CPU; on a TPU it would take four times as many cycles."""
    rows, columns = distances.shape
    width = _BLOCK if columns % _BLOCK == 0 else columns
    blocks = distances.reshape(rows, columns // width, width)
    lowest = jnp.min(blocks, axis=2)
    least = jnp.min(lowest, axis=1)
    block = _first(lowest, least)  # then look for the column in this block only
    return least, block * width + _first(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], least)


def farthest(distances, mask):
    negated, column, exists = nearest(-distances, mask)
    return -negated, column, exists


def nearest_beyond(distances, negatives, reach, fallback):
    """Return the nearest negative farther than `reach` `[A]`, or where there is none what `fallback` says."""
    distance, column, found = nearest(distances, negatives & (distances > reach[:, None]))
    if fallback == "drop":
        return distance, column, found
    other, other_column, exists = (farthest if fallback == "easiest" else nearest)(distances, negatives)
    return jnp.where(found, distance, other), jnp.where(found, column, other_column), exists


def at_column(distances, column):
    return jnp.take_along_axis(distances, column[:, None], axis=1)[:, 0]


def column_numbers(distances):
    return jax.lax.broadcasted_iota(jnp.int32, distances.shape, 1)


def _first(values, wanted):
    """Return the first column of each row that holds the wanted value."""
    return jnp.min(jnp.where(values == wanted[:, None], column_numbers(values), values.shape[1] - 1), axis=1)
