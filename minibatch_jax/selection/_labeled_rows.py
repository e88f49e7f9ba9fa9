"""A pool and its labeled examples as one set of rows, and the distances of rows to those that are labeled."""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_bool, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax.selection._neighbors import known_references


def labeled_or_none(name: str, labeled: jax.Array | None, exists: jax.Array) -> jax.Array:
    """Return the mask `[N]` of labeled rows that exist, all False if it is None. Raise unless it is bool and `[N]`."""
    if labeled is None:
        return jnp.zeros_like(exists)
    check_shape(name, labeled, exists.shape)
    check_bool(name, labeled)
    return labeled & exists


def pool_and_references(
    weights: jax.Array, features: jax.Array, reference_features: jax.Array, reference_labels: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return features `[N + M, D]` of the pool, then of the labeled examples, and the masks of existing and labeled.

    Rows of the pool with weight 0, and references with a negative label, do not exist.
    """
    check_shape("features", features, (*weights.shape, None))
    check_shape("reference_features", reference_features, (None, features.shape[1]))
    known = known_references(reference_features, reference_labels)
    rows = jnp.concatenate([features, reference_features.astype(features.dtype)])
    nobody = jnp.zeros(weights.shape, bool)
    return rows, jnp.concatenate([weights != 0, known]), jnp.concatenate([nobody, known])


def distances_to(points: jax.Array, center: jax.Array, metric: str) -> jax.Array:
    """Return the distance `[N]` of each row of `[N, D]` to a center `[D]`, exactly 0 for an equal row."""
    if metric == "l1":
        return jnp.sum(jnp.abs(points - center[None]), 1)
    if metric == "linf":
        return jnp.max(jnp.abs(points - center[None]), 1)
    return jnp.sqrt(jnp.sum((points - center[None]) ** 2, 1))


def distances_to_any(points: jax.Array, chosen: jax.Array, metric: str) -> jax.Array:
    """Return the distance of each row to the nearest chosen row, infinite if no row is chosen.

    The chosen rows are visited one at a time, in O(N) memory.
    """
    order = jnp.argsort(~chosen, stable=True).astype(jnp.int32)
    nowhere = jnp.full(points.shape[0], jnp.inf, points.dtype)
    return fori_loop(0, jnp.sum(chosen, dtype=jnp.int32), bind(_visit, points, order, metric=metric), nowhere)


def _visit(points, order, i, nearest, *, metric):
    return jnp.minimum(nearest, distances_to(points, points[order[i]], metric))
