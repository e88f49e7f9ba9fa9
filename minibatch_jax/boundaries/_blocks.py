"""Blocks of rows: cut from a batch where they are needed, so that no second copy of the batch exists.

Block j of m has the rows j, j + m, j + 2m, ..., so that each block lies on all devices over which the rows are sharded.
Outside of `jit` a loop is one of Python and a branch is the one that is taken, so that nothing is compiled.

`optax.microbatch` cuts rows in the same order and gives the same sums (a test compares), but cannot be the loop here
for three reasons: it carries nothing from one block to the next, so a model has no state; it adds up gradients in their
own dtype, so that those of bfloat16 parameters stop growing; and outside of `jit` it compiles its loop at every call.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp

from minibatch_jax.boundaries._items import count
from minibatch_jax.boundaries.chosen_rows import check_leading_axis
from minibatch_jax.devices import any_device, reshape_rows, spec_of


def number_of_rows(batch: Any) -> int:
    """Return the number of rows of a batch; raise unless every array has as many."""
    leaves = jax.tree.leaves(batch)
    if not leaves:
        raise ValueError("batch holds no array, wanted at least one with a row for each item.")
    rows = next((x.shape[0] for x in leaves if jnp.ndim(x)), 1)
    if rows == 0:
        raise ValueError("batch has 0 rows, wanted at least 1.")
    check_leading_axis("batch", batch, rows)
    return rows


def scan_blocks(step: Callable[[Any, Any], Any], start: Any, batch: Any, blocks: int) -> tuple[Any, Any]:
    """Run `carry, rows = step(carry, block)` over the blocks; return the last carry, and the rows as in the batch."""
    cuts = jax.tree.map(lambda x: _cut(x, blocks), batch)

    def body(carry, j):
        return step(carry, _block(cuts, j))

    if isinstance(jax.tree.leaves(cuts)[0], jax.core.Tracer):
        carry, parts = jax.lax.scan(body, start, jnp.arange(blocks))
    else:
        carry, found = start, []
        for j in range(blocks):
            carry, rows = body(carry, j)
            found.append(rows)
        parts = jax.tree.map(lambda *xs: jnp.stack(xs), *found)
    return carry, jax.tree.map(_join, parts)


def sum_blocks(gradient: Callable[[Any, jax.Array], Any], start: Any, batch: Any, used: jax.Array, blocks: int) -> Any:
    """Add the gradients of the blocks in which a row is used on any device; the other blocks are not computed.

    Args:
      gradient: `gradient(block, hide)`; if the result is not finite, it is called again with `hide` True.
      start: what to add to.
      batch: pytree of rows `[B, ...]`.
      used: `[B]` bool.
      blocks: number of blocks.

    Returns:
      The sums.
    """
    cuts = jax.tree.map(lambda x: _cut(x, blocks), batch)
    busy = any_device(jnp.any(_cut(used, blocks), axis=0))
    order, number = jnp.argsort(~busy), count(busy)

    def body(state):
        i, hide, sums = state
        found = gradient(_block(cuts, order[i]), hide)
        done = hide | ~any_device(not_finite(found))
        sums = jax.tree.map(lambda s, g: s + jnp.where(done, g, jnp.zeros_like(g)).astype(s.dtype), sums, found)
        return i + done.astype(jnp.int32), ~done, sums

    state = jnp.int32(0), jnp.bool_(False), start
    if isinstance(number, jax.core.Tracer):
        return jax.lax.while_loop(lambda state: state[0] < number, body, state)[2]
    while state[0] < number:
        state = body(state)
    return state[2]


def first_block(batch: Any, blocks: int) -> Any:
    """Return the first block."""
    return _block(jax.tree.map(lambda x: _cut(x, blocks), batch), 0)


def branch(condition: jax.Array, on_true: Callable[[], Any], on_false: Callable[[], Any]) -> Any:
    """Return the result of one of two functions."""
    if isinstance(condition, jax.core.Tracer):
        return jax.lax.cond(condition, on_true, on_false)
    return on_true() if condition else on_false()


def not_finite(grads: Any) -> jax.Array:
    """Return whether any entry is not finite."""
    return count(jax.tree.map(lambda g: ~jnp.isfinite(g), grads)) > 0


def _cut(x: jax.Array, blocks: int) -> jax.Array:
    """Return `[B, ...]` as `[B / blocks, blocks, ...]`, which moves no data."""
    first, *others = spec_of(x)
    return reshape_rows(x, (x.shape[0] // blocks, blocks, *x.shape[1:]), (first, None, *others))


def _block(cuts: Any, j: int | jax.Array) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, j, 1, keepdims=False), cuts)


def _join(x: jax.Array) -> jax.Array:
    """Return the rows `[blocks, B / blocks, ...]` of all blocks in the order of the batch, `[B, ...]`."""
    _, first, *others = spec_of(x)
    return reshape_rows(jnp.swapaxes(x, 0, 1), (x.shape[0] * x.shape[1], *x.shape[2:]), (first, *others))
