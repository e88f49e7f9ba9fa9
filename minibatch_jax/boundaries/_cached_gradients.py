"""Gradient of items that compare a whole batch, with the memory of one block of the encoder.

The gradient of a function of embeddings is that of the inner product of the embeddings with their own gradient, which
is a constant. An inner product is a sum over rows, so it is differentiated a block of rows at a time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating
from minibatch_jax.boundaries._blocks import branch, not_finite, number_of_rows, scan_blocks, sum_blocks
from minibatch_jax.boundaries._engine import Choice, Passed, Step, heaviest, wide_dtype
from minibatch_jax.boundaries._items import count, overwrite_without, sum_tree
from minibatch_jax.boundaries._models import Model
from minibatch_jax.boundaries.chosen_rows import check_leading_axis
from minibatch_jax.devices import RowsAxis, any_device, as_varying, sum_over


class Encoder(NamedTuple):
    """An encoder of rows, and how many of them it encodes at a time.

    Attributes:
      encode: the user's function.
      block_size: rows of a block.
      gather: how many rows are differentiated together where no other has a gradient, or None.
      rows_axis: the axis of the mesh along which rows lie.
    """

    encode: Callable[[Any, Any], Any]
    block_size: int
    gather: int | None = None
    rows_axis: RowsAxis = None

    def embed(self, model: Model, batch: Any) -> Any:
        """Return the embeddings of all rows, without a gradient."""
        trained = jax.lax.stop_gradient(model.trained)

        def embed_block(nothing, block):
            params = model.merge(trained, model.rest)
            embeddings = self.apply(params, block)
            check_unchanged(model, params, "encode", "each block is encoded twice, and must be the same both times")
            return nothing, jax.lax.stop_gradient(embeddings)

        blocks = self.blocks("the rows", number_of_rows(batch))
        return embed_block((), batch)[1] if blocks == 1 else scan_blocks(embed_block, (), batch, blocks)[1]

    def apply(self, params: Any, block: Any) -> Any:
        """Return the embeddings of a block."""
        rows, embeddings = number_of_rows(block), self.encode(params, block)
        if not jax.tree.leaves(embeddings):
            raise TypeError(f"encode returned {embeddings!r}, wanted embeddings [b, ...] or a tree of them.")
        check_leading_axis("embeddings", embeddings, rows)
        for leaf in jax.tree.leaves(embeddings):
            check_floating("embeddings", leaf)
        return embeddings

    def blocks(self, what: str, rows: int) -> int:
        """Return in how many blocks rows are cut; fewer rows than those of a block are one."""
        size = min(self.block_size, rows)
        if rows % size:
            raise ValueError(f"block_size is {self.block_size}, wanted a divisor of {what}: {rows}.")
        return rows // size

    def differentiate(self, step: Step, batch: Any, choose: Callable[[Any, dict[str, Any]], Choice]) -> Passed:
        """Embed the batch, differentiate items of the embeddings, then the embeddings, a block at a time."""
        model, items_fn = step.model, step.items_fn
        embeddings = self.embed(model, batch)
        moved = model._replace(  # what is differentiated: the parameters, and zeros taken from the embeddings
            trained=(model.trained, jax.tree.map(jnp.zeros_like, embeddings)),
            merge=lambda trained, rest: (model.merge(trained[0], rest), trained[1]),
            rest_of=lambda merged: model.rest,
        )

        def items_of(merged, data):
            params, shift = merged  # XLA removes `x - 0`, not `x + 0`, which is another number for -0
            out = items_fn(params, jax.tree.map(jnp.subtract, data["embeddings"], shift), data["batch"])
            check_unchanged(model, params, "items_fn", "only a model without one has the same embeddings twice")
            return out

        everything = {"embeddings": embeddings, "batch": batch}
        of_embeddings = step._replace(items_fn=items_of, model=moved, rows_meet=True)
        passed = of_embeddings.differentiate(everything, (model.rest, None), choose)
        own, slopes = passed.grads
        slopes = jax.tree.map(jnp.negative, slopes)
        grads = self._add_through(model, batch, slopes, own, step.kind.axis_name)
        return passed._replace(grads=grads, carried=(model.rest, None))

    def _add_through(self, model: Model, batch: Any, slopes: Any, grads: Any, axis_name: str | None) -> Any:
        """Add the gradient that comes through embeddings of given slopes; NaN where a slope is not finite."""
        trained = model.trained if axis_name is None else as_varying(model.trained, axis_name)
        lost = not_finite(slopes)
        start = jax.tree.map(lambda g: jnp.where(lost, jnp.nan, g.astype(wide_dtype(g.dtype))), grads)
        used = sum_tree(jax.tree.map(_has_slope, slopes)) > 0

        def of_block(block, hide):
            products = lambda t: _inner_products(self.apply, model.merge(t, model.rest), block, hide)  # noqa: E731
            return jax.grad(products)(trained)

        def total(rows, slopes, used, what="the rows"):
            blocks = self.blocks(what, used.shape[0])
            return functools.partial(sum_blocks, of_block, start, (rows, slopes, used), used, blocks)

        whole = total(batch, slopes, used)
        if self.gather is None:
            sums = whole()
        else:
            (rows, few_slopes), weights, _ = heaviest(
                (batch, slopes), jnp.float32(used), self.gather, self.rows_axis, axis_name
            )
            few = any_device(sum_over(count(used), axis_name) <= self.gather)
            sums = branch(few, total(rows, few_slopes, weights > 0, "the rows to gather"), whole)
        return jax.tree.map(lambda s, g: s.astype(g.dtype), sums, grads)


def checked_encoder(
    encode: Any, block_size: Any, gather: int | None, rows_axis: RowsAxis, options: dict[str, Any]
) -> Encoder | None:
    """Return the encoder, or None without `encode`; raise where arguments or the given options contradict them."""
    if (encode is None) != (block_size is None):
        missing = "encode" if encode is None else "block_size"
        raise ValueError(f"{missing} is None, wanted both encode and block_size or neither.")
    if encode is None:
        return None
    if not callable(encode):
        raise TypeError(f"encode is {type(encode).__name__}, wanted a function of parameters and a block of the batch.")
    check_count("block_size", block_size)
    reasons = {
        "micro_batches": "block_size alone",
        "score_fn": "a selection of the items of all embeddings",
        "has_state": "no state: each block is encoded twice, and must be the same both times",
    }
    for name, given in options.items():
        if given:
            raise ValueError(f"{name} is given with encode, wanted {reasons[name]}.")
    return Encoder(encode, block_size, gather, rows_axis)


def check_unchanged(model: Model, params: Any, name: str, reason: str) -> None:
    """Raise if a function has changed the state of the module that it was given."""
    before, after = (jax.tree_util.tree_leaves_with_path(tree) for tree in (model.rest, model.rest_of(params)))
    kept = {jax.tree_util.keystr(path): leaf for path, leaf in before}
    paths = [jax.tree_util.keystr(path) for path, leaf in after if kept.get(jax.tree_util.keystr(path)) is not leaf]
    if paths:
        raise ValueError(
            f"{name} changes {paths} of the module, wanted no mutable state with encode: {reason}. Take running "
            "averages in place of BatchNorm's own, and random numbers from a key for each row of the batch."
        )


def _inner_products(encode: Callable[[Any, Any], Any], params: Any, block: Any, hide: jax.Array) -> jax.Array:
    """Return the sum of the inner products of embeddings with their slopes over the rows that are used.

    With `hide` the other rows are overwritten, because 0 * NaN is NaN. Not always: they may hold the key of the block.
    """
    rows, slopes, used = block
    embeddings = encode(params, overwrite_without(rows, jnp.where(hide, used.astype(jnp.int32), 1)))

    def one(embedding, slope):
        wide = wide_dtype(embedding.dtype)
        products = embedding.astype(wide) * slope.astype(wide)
        return jnp.sum(jnp.where(used, jnp.sum(products.reshape(products.shape[0], -1), axis=1), 0))

    return sum_tree(jax.tree.map(one, embeddings, slopes))


def _has_slope(slope: jax.Array) -> jax.Array:
    """Return 1 for each row of which an entry is not 0."""
    return jnp.int32(jnp.any(slope.reshape(slope.shape[0], -1) != 0, axis=1))
