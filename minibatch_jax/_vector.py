"""Safe divisors, entries replaced, labels as indices, different rows, extremes with their first index.

Extremes and sums have a form of their own on a CPU, where XLA's reductions are slow in three ways; elsewhere the plain
one is two to seven times cheaper, by the cycles that the TPU's compiler estimates:

- A reduction of a short vector takes up to ten times as long as one of halves, which XLA vectorizes (`vector_min`).
- An argmin takes two to eleven times as long as a minimum and a minimum of the indices where it lies (`first_minima`).
- A minimum that is fused with its broadcast to a matrix takes several times as long as both (`apart`).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_SHORT = 16
_FOLDED = 64
_LONG = 16_384


def nonzero(x: jax.Array) -> jax.Array:
    """Return `x` with 1 in place of 0, as a divisor."""
    return jnp.where(x == 0, 1, x)


def put(x: jax.Array, index: jax.Array, value: jax.Array | int | float) -> jax.Array:
    """Return x with one entry replaced, or x if the index is out of range: without a scatter, XLA can fuse it.

    On a TPU too: with a scatter in its place the exact solvers have as many operations, or up to four more.
    """
    return jnp.where(lax.iota(jnp.int32, x.shape[0]) == index, value, x)


def one_zero(x: jax.Array) -> jax.Array:
    """Return `x` with 0 in place of -0, which `lax.top_k` ranks below 0 though they are equal."""
    return jnp.where(x == 0, 0, x)


def as_index(x: jax.Array) -> jax.Array:
    """Return integers in int32 at least, because an int8 index of more than 127 entries overflows."""
    return x.astype(jnp.int32) if x.dtype.itemsize < 4 else x


def as_counts(x: jax.Array) -> jax.Array:
    """Return counts in int32; what is above its range, such as a limit of 64 bits that is none, becomes its largest."""
    if x.dtype.itemsize < 4:
        return jnp.asarray(x).astype(jnp.int32)
    minimum = np.minimum if isinstance(x, np.ndarray) else jnp.minimum
    return jnp.asarray(minimum(x, jnp.iinfo(jnp.int32).max)).astype(jnp.int32)


def class_numbers(labels: jax.Array, number: int) -> jax.Array:
    """Return integer labels as int32, with `number` in place of those outside [0, number).

    The number of classes may be beyond the range of the labels' dtype, as 128 is for int8 labels up to 127.
    """
    known = labels >= 0
    if number <= jnp.iinfo(labels.dtype).max:
        known &= labels < number
    return jnp.where(known, labels.astype(jnp.int32), number)


def num_different(rows: jax.Array, counted: jax.Array) -> jax.Array:
    """Return how many different rows `[M, K]` are among the counted ones `[M]`, int32: repeats fix no parameter."""
    number = lax.iota(jnp.int32, rows.shape[0])
    equal = jnp.all(rows[:, None] == rows[None], axis=2)
    earlier = (number[:, None] > number[None]) & counted[None]
    return jnp.sum(counted & ~jnp.any(equal & earlier, axis=1), dtype=jnp.int32)


def first_min(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the minimum of `[N]` and its first index."""
    low, size = vector_min(x), x.shape[0]
    return low, vector_min(jnp.where(x == low, lax.iota(jnp.int32, size), size - 1))


def first_max(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the maximum of `[N]` and its first index."""
    low, index = first_min(-x)
    return -low, index


def vector_min(x: jax.Array) -> jax.Array:
    """Return the minimum of `[N]`: by halves on a CPU, by one reduction elsewhere."""
    if not _SHORT < x.shape[0] <= _LONG:
        return jnp.min(x)
    return lax.platform_dependent(x, cpu=_min_of_halves, default=jnp.min)


def _min_of_halves(x: jax.Array) -> jax.Array:
    return _folded_min(x, 0, 6)


def _folded_min(x: jax.Array, axis: int, folds: int) -> jax.Array:
    """Fold an axis into the minimum of its halves, which may overlap, at most so often: more compile longer."""
    for _ in range(folds):
        size = x.shape[axis]
        if size > _SHORT:
            half = (size + 1) // 2
            x = jnp.minimum(*(lax.slice_in_dim(x, start, start + half, axis=axis) for start in (0, size - half)))
    return jnp.min(x, axis=axis)


def vector_sum(x: jax.Array) -> jax.Array:
    """Return the sum of `[N]`: by halves on a CPU, by one reduction elsewhere."""
    if not _FOLDED <= x.shape[0] <= _LONG:
        return jnp.sum(x)
    return lax.platform_dependent(x, cpu=_sum_of_halves, default=jnp.sum)


def weighted_sum(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the sums of `[..., N]` with weights `[N]`: by halves on a CPU, by a product elsewhere.

    Equal vectors have equal sums. In a product on a CPU they differ by rounding, by the place of their row.
    """
    return lax.platform_dependent(x, weights, cpu=_weighted_sum_of_halves, default=_product)


def _product(x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.matmul(x, weights, precision="highest")


def _weighted_sum_of_halves(x: jax.Array, weights: jax.Array) -> jax.Array:
    return _sum_of_halves(x * jnp.broadcast_to(weights, x.shape))


def _sum_of_halves(x: jax.Array) -> jax.Array:
    """Fold `[..., N]` into the sum of its halves four times, unless it is short, and sum what is left."""
    for _ in range(4 if x.shape[-1] >= _FOLDED else 0):
        half = (x.shape[-1] + 1) // 2
        first, second = x[..., :half], x[..., half:]
        x = first + jnp.pad(second, [(0, 0)] * (x.ndim - 1) + [(0, half - second.shape[-1])])
    return jnp.sum(x, axis=-1)


def column_min(x: jax.Array) -> jax.Array:
    """Return the minimum of each column of `[N, M]`: by halves on a CPU, where XLA fuses them with what made x."""
    return lax.platform_dependent(x, cpu=_column_min_of_halves, default=_column_min)


def _column_min(x: jax.Array) -> jax.Array:
    return jnp.min(x, axis=0)


def _column_min_of_halves(x: jax.Array) -> jax.Array:
    return _folded_min(x, 0, 4)


def first_minima(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Return the minima of an array without NaN along an axis, and the first index of each."""
    on_cpu, elsewhere = _first_along(axis, jnp.min, lax.argmin)
    return lax.platform_dependent(x, cpu=on_cpu, default=elsewhere)


def first_maxima(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Return the maxima of an array without NaN along an axis, and the first index of each."""
    on_cpu, elsewhere = _first_along(axis, jnp.max, lax.argmax)
    return lax.platform_dependent(x, cpu=on_cpu, default=elsewhere)


def apart(extremes: jax.Array) -> jax.Array:
    """Return extremes without NaN as they are, by a choice that keeps XLA on a CPU from fusing a broadcast to them."""
    return jnp.where(extremes < jnp.inf, extremes, jnp.inf)


@functools.cache  # the same functions at every call: a new one compiles anew outside of `jit`
def _first_along(
    axis: int, extreme: Callable[..., jax.Array], place: Callable[..., jax.Array]
) -> tuple[Callable[[jax.Array], tuple[jax.Array, jax.Array]], ...]:
    """Return the extremes and their first indices by two reductions, and by one."""

    def by_two(x):
        best, index = apart(extreme(x, axis=axis)), lax.broadcasted_iota(jnp.int32, x.shape, axis)
        index = jnp.where(x == jnp.expand_dims(best, axis), index, x.shape[axis] - 1)
        return best, _folded_min(index, axis, 3)

    def by_one(x):  # XLA makes one operation of both
        return extreme(x, axis=axis), place(x, axis, jnp.int32)

    return by_two, by_one


def first_of_groups(groups: jax.Array, order: jax.Array, quotas: jax.Array) -> jax.Array:
    """Return the mask `[N]` of the first so many rows of each group `[N]`, in an order that sorts by group.

    Groups are in [0, C) for quotas `[C]`, and C for rows of none.
    """
    sorted_groups = groups[order]
    ranks = jnp.arange(groups.shape[0], dtype=jnp.int32)
    ranks = ranks - jnp.searchsorted(sorted_groups, sorted_groups).astype(jnp.int32)
    return jnp.zeros(groups.shape, bool).at[order].set(ranks < jnp.append(as_counts(quotas), 0)[sorted_groups])


def doubled_ranks(values: jax.Array) -> jax.Array:
    """Return twice the mean rank of each value `[N]`, less 1: how many are below it, plus how many are not above."""
    ordered = jnp.sort(values)
    below, up_to = (jnp.searchsorted(ordered, values, side=side).astype(jnp.int32) for side in ("left", "right"))
    return below + up_to
