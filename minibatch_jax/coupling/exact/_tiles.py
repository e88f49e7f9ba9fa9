"""Vectors in the kernels of a TPU: tiles of 128 lanes, numbers as float32, scalars as `[1, 1]` of the vector unit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

LANES = 128
FAR = 3e38  # above all prices and numbers
MEMORY = 14 * 2**20  # of 16 MB, the least that a TPU has


def varying_as(x: jax.Array) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype, and inside `shard_map` along which mesh axes it varies."""
    kind = jax.typeof(x)
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, manual_axis_type=kind.manual_axis_type)


def numbers(shape: tuple[int, ...]) -> jax.Array:
    """Number the entries of tiles `[S, 128]`."""
    tile, lane = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return (tile * LANES + lane).astype(jnp.float32)


def least(x: jax.Array) -> jax.Array:
    """Return the minimum as `[1, 1]`."""
    return jnp.min(jnp.min(x, axis=1, keepdims=True), axis=0, keepdims=True)


def entry(x: jax.Array, at: jax.Array) -> jax.Array:
    """Return the marked entry as `[1, 1]`."""
    return least(jnp.where(at, x, FAR))


def index(x: jax.Array) -> jax.Array:
    """Take a number `[1, 1]` out of the vector unit."""
    return x[0, 0].astype(jnp.int32)


def first(marked: jax.Array, iota: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the first marked column, one without a row before those with one, and whether it has none."""
    size = float(iota.size)
    order = least(jnp.where(marked, iota + jnp.where(rows < 0, 0.0, size), 2 * size - 1))
    return jnp.where(order < size, order, order - size), order < size


class _Flip(NamedTuple):
    """A path flipped as far as column `j`; `left` bounds its pairs."""

    goes_on: jax.Array
    left: jax.Array
    j: jax.Array
    columns: jax.Array
    rows: jax.Array


def flip_path(
    found: jax.Array, n: int, iota: jax.Array, pred: jax.Array, j: jax.Array, columns: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the columns and rows of a matching of n rows after the path that ends at column `j`, if one was found.

    `pred` holds the row from which each column was reached. It ends for whatever `pred`, after n pairs.
    """

    def flip(t):
        i = entry(pred, iota == t.j)
        following = entry(t.columns, iota == i)
        columns, rows = jnp.where(iota == i, t.j, t.columns), jnp.where(iota == t.j, i, t.rows)
        return _Flip(index(following) >= 0, t.left - 1, following, columns, rows)

    path = _Flip(found, jnp.int32(n), j, columns, rows)
    path = lax.while_loop(lambda t: t.goes_on & (t.left > 0), flip, path)
    return path.columns, path.rows
