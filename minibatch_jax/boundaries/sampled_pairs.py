"""From a plan to pairs: draw the indices of a static number of pairs, so that a network sees only these.

`sum(weights * loss(source, target))` over drawn pairs is an unbiased estimate of `sum(plan * loss)` over all pairs.
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_shape
from minibatch_jax._loops import bind
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax._vector import first_maxima
from minibatch_jax.weights import Weights, matrix_of, weight_dtype

if TYPE_CHECKING:
    from minibatch_jax.coupling.plans import Plan

MODES = ("joint", "rows", "columns", "permutation")


class Pairs(NamedTuple):
    """Pairs drawn from a plan.

    Attributes:
      source: `[S]` int32, row of the plan.
      target: `[S]` int32, column of the plan.
      weights: `[S]`, float32 (float64 if the plan is), 1/S each for a plan of mass 1 with uniform marginals; 0 in a
        slot without a pair, which repeats the first pair that exists, so it holds no padding.
    """

    source: jax.Array
    target: jax.Array
    weights: jax.Array


def sample_pairs(
    key: jax.Array | int, plan: "Weights | Plan", num_pairs: int | None = None, *, mode: str = "joint"
) -> Pairs:
    """Draw pairs of a source and a target from a plan.

    - `'joint'` draws pairs with replacement in proportion to the plan.
    - `'rows'` keeps each source once, in order, and draws its target from its row.
    - `'columns'` keeps each target once, in order (labels stay aligned), and draws its source from its column.
    - `'permutation'` keeps each source once and takes the target of the largest entry of its row: the pairing itself,
      for plans with at most one entry a row, as `couple_assignment` makes. For a dense plan this is no unbiased
      estimate: several sources may get the same target. Of equal entries the first is taken.

    Entries of the plan that are not finite count as 0. No gradient flows through the result.

    Args:
      key: int seed, typed key or legacy `PRNGKey`; mode `'permutation'` does not use it.
      plan: `[B0, B1]`, at least 0, of any mass, or a `Plan`.
      num_pairs: how many pairs, static; B0 by default (B1 for `'columns'`). Only `'joint'` may have another number.
      mode: `'joint'`, `'rows'`, `'columns'` or `'permutation'`.

    Returns:
      `Pairs(source, target, weights)`. The weights are `mass / num_pairs` for `'joint'`, the column sums for
      `'columns'`, the row sums for `'rows'` and `'permutation'`; in sum always the mass of the plan.

    Raises:
      TypeError: if the plan is not floating point.
      ValueError: if the plan is not a matrix, the mode is unknown, or `num_pairs` does not fit the mode.

    Examples:
      >>> source, target, weights = sample_pairs(0, jnp.array([[0.0, 0.5], [0.5, 0.0]]), mode="rows")
      >>> source.tolist(), target.tolist(), weights.tolist()
      ([0, 1], [1, 0], [0.5, 0.5])
    """
    matrix = matrix_of(plan)
    check_shape("plan", matrix, (None, None))
    check_floating("plan", matrix)
    check_choice("mode", mode, MODES)
    size = matrix.shape[1] if mode == "columns" else matrix.shape[0]
    count: int = size if num_pairs is None else num_pairs
    check_count("num_pairs", count)
    if mode != "joint" and count != size:
        raise ValueError(f"num_pairs is {count}, wanted {size} in mode {mode!r}: one for each.")
    matrix = lax.stop_gradient(jnp.where(jnp.isfinite(matrix) & (matrix > 0), matrix, 0))
    matrix = matrix.astype(weight_dtype(matrix.dtype))
    if mode == "joint":
        return _without_holes(*_joint(as_key(key), matrix, count))
    if mode == "rows":
        return _without_holes(*_rows(as_key(key), matrix))
    if mode == "columns":
        target, source, weights = _rows(as_key(key), matrix.T)
        return _without_holes(source, target, weights)
    return _without_holes(lax.iota(jnp.int32, size), first_maxima(matrix, axis=1)[1], jnp.sum(matrix, axis=1))


def _joint(key: jax.Array, plan: jax.Array, num_pairs: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draw the row from the row sums, then the column from that row: no sum runs over all pairs."""
    row_key, column_key = jax.random.split(key)
    mass = jnp.sum(plan, axis=1)
    slots = lax.iota(jnp.int32, num_pairs)
    source = map_row_blocks(bind(_draw_same, mass), (slots,), columns=mass.shape[0], key=row_key)
    target = map_row_blocks(bind(_draw_from, plan), (source,), columns=plan.shape[1], key=column_key)
    return source, target, jnp.broadcast_to(jnp.sum(mass) / num_pairs, num_pairs)


def _rows(key: jax.Array, plan: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    return lax.iota(jnp.int32, plan.shape[0]), map_row_blocks(bind(_draw), (plan,), key=key), jnp.sum(plan, axis=1)


def _draw_same(mass: jax.Array, key: jax.Array, slots: jax.Array) -> jax.Array:
    return _draw(key, jnp.broadcast_to(mass[None, :], (slots.shape[0], mass.shape[0])))


def _draw_from(plan: jax.Array, key: jax.Array, source: jax.Array) -> jax.Array:
    return _draw(key, plan[source])


def _draw(key: jax.Array, mass: jax.Array) -> jax.Array:
    """One column index a row, with probability proportional to its mass, by the Gumbel trick."""
    return first_maxima(jnp.log(mass) + jax.random.gumbel(key, mass.shape, mass.dtype), axis=1)[1]


def _without_holes(source: jax.Array, target: jax.Array, weights: jax.Array) -> Pairs:
    exists = weights > 0
    slot = lax.iota(jnp.int32, weights.shape[0])
    first = jnp.min(jnp.where(exists, slot, weights.shape[0] - 1))
    slot = jnp.where(exists, slot, first)
    return Pairs(source[slot], target[slot], weights)
