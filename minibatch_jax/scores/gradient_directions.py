"""How much the directions of mini-batch gradients differ, from one another and from that of the whole data set.

Both numbers are 0 where all gradients point the same way, 1/2 where they are orthogonal, and 1 where they are opposite.
They say how noisy batches of a size are, whatever the length of their gradients: under dropout, for example, gradients
are shorter and agree more.

References:
  Liu et al., Dropout reduces underfitting, ICML 2023 (arXiv 2303.01500).

Method: directions of mini-batch gradients
Paper: 2303.01500
Experiment: early_dropout
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.boundaries.chosen_rows import check_leading_axis
from minibatch_jax.weights import weight_dtype


def gradient_direction_variance(gradients: Any) -> jax.Array:
    """Return the mean cosine distance between the gradients of mini-batches, halved: 0 if all agree.

    The cosines of all pairs are those of the sum of the unit gradients, so time and memory are linear in the number of
    gradients. The cosine with a gradient of 0 counts as 0.

    Args:
      gradients: pytree with leaves `[n, ...]`, floating point, n >= 2: gradients of n mini-batches at the same
        parameters, of equal size if runs are compared.

    Returns:
      `[]`, in [0, 1] up to rounding, float32 (float64 if a leaf is); NaN if a gradient is not finite.

    Raises:
      TypeError: if a leaf is not floating point.
      ValueError: if there is no leaf, leaves differ in n or n is 1.

    References:
      Liu et al., ICML 2023 (arXiv 2303.01500).

    Examples:
      >>> float(gradient_direction_variance({"w": jnp.array([[1.0, 0.0], [0.0, 5.0]])}))
      0.5
    """
    leaves = _rows(gradients)
    n = leaves[0].shape[0]
    if n < 2:
        raise ValueError(f"gradients has {n} row, wanted two or more: the gradients of several mini-batches.")
    units, lengths, finite = _units(leaves)
    together = sum(jnp.sum(jnp.square(jnp.sum(row, axis=0))) for row in units)
    agreement = (together - jnp.sum(lengths > 0, dtype=lengths.dtype)) / (n * (n - 1))
    return jnp.where(finite, (1 - agreement) / 2, jnp.nan)


def gradient_direction_error(gradients: Any, full_gradient: Any) -> jax.Array:
    """Return the mean cosine distance of mini-batch gradients to the gradient of the whole data set, halved.

    The cosine with a gradient of 0 counts as 0.

    Args:
      gradients: pytree with leaves `[n, ...]`, floating point: gradients of n mini-batches at the same parameters, in
        training mode (with dropout if there is any).
      full_gradient: pytree with leaves `[...]`: the gradient over all examples, in evaluation mode.

    Returns:
      `[]`, in [0, 1] up to rounding, float32 (float64 if a leaf is); NaN if a gradient is not finite.

    Raises:
      TypeError: if a leaf is not floating point.
      ValueError: if there is no leaf, leaves differ in n or the trees do not match.

    References:
      Liu et al., ICML 2023 (arXiv 2303.01500).

    Examples:
      >>> float(gradient_direction_error(jnp.array([[2.0, 0.0], [0.0, -5.0]]), jnp.array([1.0, 0.0])))
      0.25
    """
    leaves = _rows(gradients)
    structures = jax.tree.structure(gradients), jax.tree.structure(full_gradient)
    if structures[0] != structures[1]:
        raise ValueError(f"full_gradient has the structure {structures[1]}, wanted that of gradients, {structures[0]}.")
    full = []
    for row, whole in zip(leaves, jax.tree.leaves(full_gradient)):
        check_shape("full_gradient", whole, row.shape[1:])
        check_floating("full_gradient", whole)
        full.append(whole.astype(row.dtype)[None])
    (units, _, finite), (direction, _, full_is_finite) = _units(leaves), _units(full)
    cosines = sum(_row_sums(row * whole) for row, whole in zip(units, direction))
    return jnp.where(finite & full_is_finite, jnp.mean(1 - cosines) / 2, jnp.nan)


def _rows(gradients: Any) -> list[jax.Array]:
    """Return the leaves in one dtype."""
    leaves = jax.tree.leaves(gradients)
    if not leaves or jnp.ndim(leaves[0]) == 0:
        raise ValueError(f"gradients has the shapes {jax.tree.map(jnp.shape, gradients)}, wanted arrays [n, ...].")
    check_leading_axis("gradients", gradients, leaves[0].shape[0])
    for leaf in leaves:
        check_floating("gradients", leaf)
    dtype = weight_dtype(jnp.result_type(*leaves))
    return [leaf.astype(dtype) for leaf in leaves]


def _units(leaves: list[jax.Array]) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """Return the gradients scaled to length 1 (0 stays 0), lengths beside the largest entry, and if all are finite.

    Divide by the largest entry first, so that no square leaves the range of floats.
    """
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(row), axis=range(1, row.ndim)) for row in leaves])
    leaves = [_divided(row, largest) for row in leaves]
    norms = jnp.sqrt(sum(_row_sums(jnp.square(row)) for row in leaves))  # pyright: ignore
    return [_divided(row, norms) for row in leaves], norms, jnp.isfinite(largest).all()


def _divided(rows: jax.Array, by: jax.Array) -> jax.Array:
    return rows / nonzero(by).reshape(-1, *[1] * (rows.ndim - 1))


def _row_sums(rows: jax.Array) -> jax.Array:
    return jnp.sum(rows.reshape(rows.shape[0], -1), axis=1)
