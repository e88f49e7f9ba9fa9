"""Functions of the rows of a matrix `[A, M]` of pairs, on blocks of rows where the pairs are many.

Each step of a function may hold an array of all pairs, and its gradient all of them at once. In blocks, only what goes
in and comes out is as large as the pairs; the gradient computes a block again.
"""

from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._loops import Bound, bind, map_rows

WHOLE = 2**22
"""So many pairs are handled at once: 2,048 anchors and references."""
BLOCK = 2**20
"""Pairs of a block, at most."""


def number_of_blocks(rows: int, columns: int) -> int:
    """Return a divisor of the number of rows, 1 where blocks do not pay or no divisor gives blocks of a good size.

    Of those that do, it leaves the rows of a block most often divisible by two, to be spread over devices.
    """
    if rows * columns <= WHOLE:
        return 1
    wanted = min(-(-rows * columns // BLOCK), rows)
    fitting = [number for number in range(wanted, min(4 * wanted, rows) + 1) if rows % number == 0]
    return max(fitting, key=lambda number: (rows // number) & -(rows // number), default=1)


def map_row_blocks(
    function: Bound, rows: tuple[jax.Array, ...], *, columns: int | None = None, key: jax.Array | None = None
) -> Any:
    """Return `function(*rows)`, computed on blocks of rows.

    Args:
      function: what `bind` returns, from arrays of rows to a pytree of arrays with as many rows. It may not depend on
        other rows.
      rows: arrays with A rows each, the first one `[A, M]`.
      columns: what a row holds, instead of M.
      key: typed PRNG key. It is the first argument of the function, of each block its own.

    Returns:
      The results of all rows, in their order.
    """
    size = rows[0].shape[0]
    number = number_of_blocks(size, rows[0].shape[1] if columns is None else columns)
    if number == 1:
        return function(*(() if key is None else (key,)), *rows)
    # Every `number`-th row is in one block, so that rows on several devices stay where they are.
    dealt = [jnp.swapaxes(x.reshape(size // number, number, *x.shape[1:]), 0, 1) for x in rows]
    keys = () if key is None else (jax.random.split(key, number),)
    found = map_rows(bind(_of_block, function), (*keys, *dealt))
    return jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1).reshape(size, *y.shape[2:]), found)


def _of_block(function, rows):
    return jax.checkpoint(lambda function, rows: function(*rows), prevent_cse=False)(function, rows)
