"""Non-negative similarities of feature vectors, as a whole matrix or a few rows at a time."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_choice, check_floating, check_shape, mask_or_all
from minibatch_jax.geometry import center, finite_rows, product, unit_rows

METRICS = ("sqeuclidean", "euclidean", "l1", "cosine")


class Similarity(NamedTuple):
    """Similarities of N items, computed on demand.

    Attributes:
      rows: `rows(indices [...]) -> [..., N]`, similarities of the items at `indices` to all items.
      sums: `sums(item_weights [N]) -> [N]`, weighted row sums of the similarities.
    """

    rows: Callable[[jax.Array], jax.Array]
    sums: Callable[[jax.Array], jax.Array]


def usable_features(
    features: jax.Array, where: jax.Array | None = None, name: str = "features"
) -> tuple[jax.Array, jax.Array]:
    """Return the features with 0 in rows that do not exist or are not finite, and the mask of the other rows."""
    check_shape(name, features, (None, None))
    check_floating(name, features)
    features, exists = finite_rows(features)
    exists &= mask_or_all("where", where, features.shape[:1])
    return jnp.where(exists[:, None], features, 0), exists


def similarity(features: jax.Array, exists: jax.Array, metric: str) -> Similarity:
    """Return the similarity of usable features; its values for rows that do not exist are arbitrary."""
    check_choice("metric", metric, METRICS)
    if metric == "cosine":
        return _cosine(features)
    origin = center(jnp.where(exists[:, None], features, jnp.nan))
    centered = jnp.where(exists[:, None], features - origin[None], 0)
    return {"sqeuclidean": _sqeuclidean, "euclidean": _euclidean, "l1": _l1}[metric](centered)


def _cosine(x: jax.Array) -> Similarity:
    unit = unit_rows(x)
    return Similarity(
        lambda j: jnp.maximum((1 + product(unit[j], unit.T)) / 2, 0),
        lambda u: (jnp.sum(u) + product(unit, product(u, unit))) / 2,
    )


def _sqeuclidean(x: jax.Array) -> Similarity:
    squares = jnp.sum(x**2, 1)
    bound = 4 * jnp.max(squares)

    def rows(j):
        return jnp.minimum((bound - squares[j])[..., None] + (2 * product(x[j], x.T) - _like(squares, j)), bound)

    def sums(u):
        return jnp.sum(u) * (bound - squares) - jnp.sum(u * squares) + 2 * product(x, product(u, x))

    return Similarity(rows, sums)


def _euclidean(x: jax.Array) -> Similarity:
    squares = jnp.sum(x**2, 1)
    bound = 2 * jnp.sqrt(jnp.max(squares))

    def rows(j):
        return bound - jnp.sqrt(jnp.maximum(squares[j][..., None] + (_like(squares, j) - 2 * product(x[j], x.T)), 0))

    return Similarity(rows, lambda u: _sums_by_rows(rows, u))


def _l1(x: jax.Array) -> Similarity:
    bound = 2 * jnp.max(jnp.sum(jnp.abs(x), 1))

    def rows(j):
        return bound - jnp.sum(jnp.abs(x[j][..., None, :] - _like(x, j)), -1)

    return Similarity(rows, lambda u: _sums_by_rows(rows, u))


def _sums_by_rows(rows: Callable[[jax.Array], jax.Array], item_weights: jax.Array) -> jax.Array:
    size = item_weights.shape[0]
    return jax.lax.map(lambda j: jnp.sum(item_weights * rows(j)), jnp.arange(size), batch_size=min(size, 64))


def _like(array: jax.Array, indices: jax.Array) -> jax.Array:
    return jnp.expand_dims(array, range(indices.ndim))
