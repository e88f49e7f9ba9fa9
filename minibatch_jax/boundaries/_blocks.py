"""Blocks of rows: cut from a batch where they are needed, so that no second copy of the batch exists.

Block j of m has the rows j, j + m, j + 2m, ..., so that each block lies on all devices over which the rows are sharded.
Outside of `jit` a loop is one of Python and a branch is the one that is taken, so that nothing is compiled.

`optax.microbatch` cuts rows in the same order and gives the same sums (a test compares them). It cannot be the loop here
for three reasons: it carries nothing from one block to the next, so a model has no state; it adds up gradients in their
own dtype, so that those of bfloat16 parameters stop growing; and outside of `jit` it compiles its loop at every call.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from minibatch_jax.boundaries.chosen_rows import check_leading_axis
from minibatch_jax.devices import reshape_rows, spec_of


def number_of_rows(batch: Any) -> int:
    """Return the number of rows of a batch; raise unless every array has as many."""
    leaves = jax.tree.leaves(batch)
    if not leaves:
        raise ValueError("batch holds no array, wanted at least one with a row for each item.")
    rows = next((x.shape[0] for x in leaves if jnp.ndim(x)), 0)
    check_leading_axis("batch", batch, rows)
    return rows


def scan_blocks(step: Callable[[Any, Any], Any], start: Any, batch: Any, blocks: int) -> tuple[Any, Any]:
    """Run `carry, rows = step(carry, block)` over the blocks; return the last carry, and the rows as in the batch."""
    cuts = jax.tree.map(lambda x: _cut(x, blocks), batch)

    def body(carry, j):
        return step(carry, jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, j, 1, keepdims=False), cuts))

    if isinstance(jax.tree.leaves(cuts)[0], jax.core.Tracer):
        carry, parts = jax.lax.scan(body, start, jnp.arange(blocks))
    else:
        carry, found = start, []
        for j in range(blocks):
            carry, rows = body(carry, j)
            found.append(rows)
        parts = jax.tree.map(lambda *xs: jnp.stack(xs), *found)
    return carry, jax.tree.map(_join, parts)


def first_block(batch: Any, blocks: int) -> Any:
    """Return the first block."""
    return jax.tree.map(lambda x: jax.lax.index_in_dim(_cut(x, blocks), 0, 1, keepdims=False), batch)


def branch(condition: jax.Array, on_true: Callable[[], Any], on_false: Callable[[], Any]) -> Any:
    """Return the result of one of two functions."""
    if isinstance(condition, jax.core.Tracer):
        return jax.lax.cond(condition, on_true, on_false)
    return on_true() if condition else on_false()


def _cut(x: jax.Array, blocks: int) -> jax.Array:
    """Return `[B, ...]` as `[B / blocks, blocks, ...]`, which moves no data."""
    first, *others = spec_of(x)
    return reshape_rows(x, (x.shape[0] // blocks, blocks, *x.shape[1:]), (first, None, *others))


def _join(x: jax.Array) -> jax.Array:
    """Return the rows `[blocks, B / blocks, ...]` of all blocks in the order of the batch, `[B, ...]`."""
    _, first, *others = spec_of(x)
    return reshape_rows(jnp.swapaxes(x, 0, 1), (x.shape[0] * x.shape[1], *x.shape[2:]), (first, *others))
