"""Losses of pairs `[A, M]` that are computed and reduced a block of rows at a time, where the pairs are many."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice
from minibatch_jax._loops import Bound, bind
from minibatch_jax._row_blocks import map_row_blocks, number_of_blocks
from minibatch_jax.mining.reductions import REDUCTIONS, reduce_losses


def reduce_row_blocks(losses_of_rows: Bound, rows: tuple[jax.Array, ...], reduction: str) -> jax.Array:
    """Return the sum over the kinds of losses of `reduce_losses(losses, valid, reduction)`, computed on blocks of rows.

    Args:
      losses_of_rows: what `bind` returns, from arrays of rows to a list: of each kind, the losses `[A]` or `[A, M]`
        and which are valid.
      rows: arrays with A rows each, the first one `[A, M]`.
      reduction: one of `reduce_losses`.

    Returns:
      The losses, reduced.

    Raises:
      ValueError: if the reduction is unknown.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    if number_of_blocks(*rows[0].shape) == 1:
        return _add([reduce_losses(losses, valid, reduction) for losses, valid in losses_of_rows(*rows)])
    if reduction in ("anchors", "anchor_mean", "none"):
        found = map_row_blocks(bind(_of_anchors, losses_of_rows, keep=reduction == "none"), rows)
        is_mean = reduction == "anchor_mean"
        return _add([reduce_losses(losses, valid, "mean") if is_mean else losses for losses, valid in found])
    found = map_row_blocks(bind(_sums, losses_of_rows, reduction=reduction), rows)
    if reduction == "sum":
        return _add([jnp.sum(total) for total, _ in found])
    return _add([jnp.sum(total) / jnp.maximum(jnp.sum(number), 1) for total, number in found])


def _add(terms: Sequence[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)


def _of_anchors(losses_of_rows, *rows, keep):
    """Return for each kind the losses, or the mean of each anchor, and which are valid."""

    def of_kind(losses, valid):
        some = valid if keep else valid.reshape(valid.shape[0], -1).any(axis=1)
        return reduce_losses(losses, valid, "none" if keep else "anchors"), some

    return [of_kind(*kind) for kind in losses_of_rows(*rows)]


def _sums(losses_of_rows, *rows, reduction):
    """Return for each kind the sum of the losses of each row, and how many count."""

    def of_kind(losses, valid):
        kept = jnp.where(valid, losses, 0)
        counted = ~(kept <= 0) if reduction == "active_mean" else valid
        axes = tuple(range(1, kept.ndim))
        return jnp.sum(jnp.where(counted, kept, 0), axis=axes), jnp.sum(counted.astype(kept.dtype), axis=axes)

    return [of_kind(*kind) for kind in losses_of_rows(*rows)]
