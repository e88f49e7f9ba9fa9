"""Rows of a pool nearest to labeled examples, by the cosine of their features, a few labeled examples at a time."""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_integer, check_shape, mask_or_all
from minibatch_jax.geometry import finite_rows, product, unit_rows
from minibatch_jax.weights import weight_dtype


def directions_of(
    features: jax.Array,
    reference_features: jax.Array,
    *,
    where: jax.Array | None = None,
    reference_mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return pool and references as unit rows, each with the mask of the rows that count."""
    check_shape("features", features, (None, None))
    check_shape("reference_features", reference_features, (None, features.shape[1]))
    check_floating("features", features)
    check_floating("reference_features", reference_features)
    dtype = weight_dtype(jnp.result_type(features, reference_features))
    (pool, finite), (references, exist) = (finite_rows(x.astype(dtype)) for x in (features, reference_features))
    allowed = finite & mask_or_all("where", where, features.shape[:1])
    exist &= mask_or_all("reference_mask", reference_mask, reference_features.shape[:1])
    return unit_rows(pool), allowed, unit_rows(references), exist


def nearest_rows(directions, allowed, reference, *, number):
    """Return cosines and indices `[number]` of the rows nearest to one reference; N, one past the end, for none."""
    direction, exists = reference
    cosines = jnp.where(allowed & exists, product(directions, direction), -jnp.inf)
    found, rows = jax.lax.top_k(cosines, number)
    return found, jnp.where(found > -jnp.inf, rows, directions.shape[0])


def known_references(reference_features: jax.Array, reference_labels: jax.Array) -> jax.Array:
    """Return the mask `[M]` of the references that are no padding: their label is not negative."""
    check_shape("reference_features", reference_features, (None, None))
    check_shape("reference_labels", reference_labels, reference_features.shape[:1])
    check_integer("reference_labels", reference_labels)
    return reference_labels >= 0
