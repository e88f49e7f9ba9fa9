"""Nearness of feature vectors, as a whole matrix or a few rows at a time.

Nearness is minus the distance, not a bound minus the distance: one far row would make the bound so large that the
distances of all others vanish in its rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_floating, check_shape, mask_or_all
from minibatch_jax._loops import bind, map_rows
from minibatch_jax.geometry import center, finite_rows, measurable_rows, product, unit_rows

METRICS = ("sqeuclidean", "euclidean", "l1", "cosine")


class Similarity(NamedTuple):
    """Nearness of N items, computed on demand. Similarities are the nearness plus a bound, at least 0.

    Attributes:
      rows: `rows(indices [...]) -> [..., N]`, nearness of the items at `indices` to all items.
      sums: `sums(item_weights [N])` -> `[N]` and `[]`: two terms of the weighted row sums of the similarities, of which
        the second is common to all rows.
      bound: `[]`, what makes a nearness a similarity.
    """

    rows: Callable[[jax.Array], jax.Array]
    sums: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    bound: jax.Array


def usable_features(
    features: jax.Array, where: jax.Array | None = None, name: str = "features", *, metric: str = "sqeuclidean"
) -> tuple[jax.Array, jax.Array]:
    """Return the features with 0 in rows that do not exist or cannot be measured, and the mask of the other rows.

    Rows that are not finite cannot be measured and, except for cosines, rows whose squared norm overflows.
    """
    check_shape(name, features, (None, None))
    check_floating(name, features)
    features, exists = (finite_rows if metric == "cosine" else measurable_rows)(features)
    exists &= mask_or_all("where", where, features.shape[:1])
    return jnp.where(exists[:, None], features, 0), exists


def similarity(features: jax.Array, exists: jax.Array, metric: str) -> Similarity:
    """Return the nearness of usable features; its values for rows that do not exist are arbitrary."""
    check_choice("metric", metric, METRICS)
    if metric == "cosine":
        return _cosine(features)
    origin = center(jnp.where(exists[:, None], features, jnp.nan))
    centered = jnp.where(exists[:, None], features - origin[None], 0)
    return {"sqeuclidean": _sqeuclidean, "euclidean": _euclidean, "l1": _l1}[metric](centered)


def nearness_matrix(features: jax.Array, exists: jax.Array, metric: str) -> jax.Array:
    """Return the nearness `[N, N]` of all usable features; its values for rows that do not exist are arbitrary."""
    return similarity(features, exists, metric).rows(jnp.arange(features.shape[0]))


def _cosine(x: jax.Array) -> Similarity:
    unit = unit_rows(x)

    def sums(u):
        return product(unit, product(u, unit)) / 2, jnp.sum(u) / 2

    return Similarity(bind(_cosine_rows, unit), sums, jnp.zeros((), x.dtype))


def _cosine_rows(unit: jax.Array, j: jax.Array) -> jax.Array:
    return jnp.maximum((1 + product(unit[j], unit.T)) / 2, 0)


def _sqeuclidean(x: jax.Array) -> Similarity:
    squares = jnp.sum(x**2, 1)
    bound = 4 * jnp.max(squares)

    def sums(u):
        return 2 * product(x, product(u, x)) - jnp.sum(u) * squares, jnp.sum(u) * bound - jnp.sum(u * squares)

    return Similarity(bind(_sqeuclidean_rows, x, squares), sums, bound)


def _sqeuclidean_rows(x: jax.Array, squares: jax.Array, j: jax.Array) -> jax.Array:
    return -_squared(x, squares, j)


def _euclidean(x: jax.Array) -> Similarity:
    squares = jnp.sum(x**2, 1)
    bound = 2 * jnp.sqrt(jnp.max(squares))
    rows = bind(_euclidean_rows, x, squares)
    return Similarity(rows, lambda u: (_sums_by_rows(rows, u), jnp.sum(u) * bound), bound)


def _euclidean_rows(x: jax.Array, squares: jax.Array, j: jax.Array) -> jax.Array:
    return -jnp.sqrt(_squared(x, squares, j))


def _squared(x: jax.Array, squares: jax.Array, j: jax.Array) -> jax.Array:
    """Return squared distances of the rows at j: of one row by differences, of many by one matrix product."""
    if j.ndim == 0:
        return jnp.sum((x - x[j][None]) ** 2, 1)
    return jnp.maximum(squares[j][..., None] + (_like(squares, j) - 2 * product(x[j], x.T)), 0)


def _l1(x: jax.Array) -> Similarity:
    bound = 2 * jnp.max(jnp.sum(jnp.abs(x), 1))
    rows = bind(_l1_rows, x)
    return Similarity(rows, lambda u: (_sums_by_rows(rows, u), jnp.sum(u) * bound), bound)


def _l1_rows(x: jax.Array, j: jax.Array) -> jax.Array:
    return -jnp.sum(jnp.abs(x[j][..., None, :] - _like(x, j)), -1)


def _sums_by_rows(rows: Callable[[jax.Array], jax.Array], item_weights: jax.Array) -> jax.Array:
    size = item_weights.shape[0]
    return map_rows(bind(_sum_of_row, rows, item_weights), jnp.arange(size), block_size=min(size, 64))


def _sum_of_row(rows: Callable[[jax.Array], jax.Array], item_weights: jax.Array, j: jax.Array) -> jax.Array:
    return jnp.sum(item_weights * rows(j))


def _like(array: jax.Array, indices: jax.Array) -> jax.Array:
    return jnp.expand_dims(array, range(indices.ndim))
