"""Which few tasks of many to evaluate, so that the scores on all others can be predicted.

A record holds the scores of many models on T tasks. Tasks are chosen one after another, each the one that explains
most of what the tasks before leave unexplained; a ridge regression on the chosen ones predicts the others. Judge a
choice by models of families that it was not made from: `held_out_fit`.

References:
  Ye et al., How predictable are large language model capabilities? A case study on BIG-bench, Findings of EMNLP 2023
  (arXiv 2305.14947). The greedy rule is column subset selection: Farahat et al., ICDM 2011.

Method: representative tasks
Paper: 2305.14947
Experiment: task_subsets
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_number, check_shape
from minibatch_jax._loops import bind, scan
from minibatch_jax._vector import class_numbers, first_max, nonzero
from minibatch_jax.geometry import finite_rows, product


class Tasks(NamedTuple):
    """Tasks in the order they were chosen.

    Attributes:
      indices: `[k]` int32, distinct; T, one past the end, where no task was left that explains anything.
      explained: `[k]`, the fraction of the variance of all tasks that the chosen ones explain linearly, never falling;
        1 if there is no variance.
    """

    indices: jax.Array
    explained: jax.Array


class _Residuals(NamedTuple):
    residuals: jax.Array
    free: jax.Array


def representative_tasks(records: jax.Array, k: int, *, ridge: float | jax.Array = 1e-6) -> Tasks:
    """Choose k tasks, each the one whose residual explains most of the residuals of all tasks.

    O(k M T^2) time and O(T^2) memory for M models.

    Args:
      records: `[M, T]`, floating point; a model with a score that is not finite is left out.
      k: static, at most T.
      ridge: at least 0; added to the squared length of a residual, as a fraction of the mean squared length of all
        tasks, so that a task that is nearly explained is not chosen for its rounding.

    Returns:
      The tasks.

    Raises:
      TypeError: if the records are not floating point or k is not a static int.
      ValueError: if the records are not `[M, T]`, k is out of range or the ridge is negative.

    References:
      Farahat et al., An efficient greedy method for unsupervised feature selection, ICDM 2011.

    Examples:
      >>> records = jnp.array([[0.0, 0.0, 1.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 1.0]])
      >>> found = representative_tasks(records, 2)
      >>> found.indices.tolist(), [round(x, 2) for x in found.explained.tolist()]
      ([1, 2], [0.83, 1.0])
    """
    check_shape("records", records, (None, None))
    check_floating("records", records)
    check_count("k", k, records.shape[1], "the number of tasks")
    check_number("ridge", ridge, 0)
    rows, finite, _ = _scaled(records)
    _, centered, rounding = _centered(rows, finite)
    total = jnp.sum(centered**2)
    damping = jnp.asarray(ridge, rows.dtype) * total / rows.shape[1]
    state = _Residuals(centered, jnp.ones(rows.shape[1], bool))
    _, (indices, explained) = scan(bind(_choose, total, damping, rounding), state, None, length=k)
    return Tasks(indices, jax.lax.cummax(explained))


def predict_tasks(
    records: jax.Array, indices: jax.Array, scores: jax.Array, *, ridge: float | jax.Array = 1e-3
) -> jax.Array:
    """Return the scores on all tasks that a ridge regression predicts from those on some.

    Args:
      records: `[M, T]`, floating point, of models that ran all tasks; one with a score that is not finite is left out.
      indices: `[k]` int, the tasks that were run; others than in [0, T) are ignored.
      scores: `[..., k]`, floating point, of other models.
      ridge: penalty, at least 0, as a fraction of the mean squared length of the chosen columns.

    Returns:
      `[..., T]`; NaN for a model with a score that is not finite.

    Raises:
      TypeError: if an array has the wrong dtype.
      ValueError: if shapes do not match or the ridge is negative.

    Examples:
      >>> records = jnp.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
      >>> predict_tasks(records, jnp.array([0]), jnp.array([[3.0]]), ridge=0.0).round().tolist()
      [[3.0, 6.0]]
    """
    check_shape("records", records, (None, None))
    check_floating("records", records)
    check_shape("indices", indices, (None,))
    check_integer("indices", indices)
    check_floating("scores", scores)
    check_number("ridge", ridge, 0)
    if scores.ndim < 1 or scores.shape[-1] != indices.shape[0]:
        raise ValueError(
            f"scores has shape {list(scores.shape)}, wanted [..., {indices.shape[0]}], as many as indices."
        )
    rows, finite, scale = _scaled(records)
    indices = class_numbers(jnp.asarray(indices), rows.shape[1])
    return scale * _predict(rows, finite, indices, scores.astype(rows.dtype) / scale, jnp.asarray(ridge, rows.dtype))


def held_out_fit(
    records: jax.Array,
    families: jax.Array,
    num_families: int,
    indices: jax.Array,
    *,
    ridge: float | jax.Array = 1e-3,
) -> jax.Array:
    """Return how much of the scores on the other tasks is predicted, for models of families left out in turn.

    Args:
      records: `[M, T]`, floating point; a model with a score that is not finite is left out.
      families: `[M]` int in [0, num_families), whose models are alike.
      num_families: at least 2, static.
      indices: `[k]` int, the tasks that are run; others than in [0, T) are ignored.
      ridge: as in `predict_tasks`.

    Returns:
      `[]`, 1 less the squared error over the tasks not chosen, divided by that of the task's mean over the models of
      the other families; NaN where nothing is left to predict. Without models of other families one is not judged.

    Raises:
      TypeError: if an array has the wrong dtype or the count is not a static int.
      ValueError: if shapes do not match or a number is out of range.

    References:
      Ye et al., Findings of EMNLP 2023 (arXiv 2305.14947).

    Examples:
      >>> records = jnp.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
      >>> round(float(held_out_fit(records, jnp.array([0, 1, 0, 1]), 2, jnp.array([0]), ridge=0.0)), 3)
      1.0
    """
    check_shape("records", records, (None, None))
    check_floating("records", records)
    check_shape("families", families, records.shape[:1])
    check_integer("families", families)
    check_count("num_families", num_families)
    if num_families < 2:
        raise ValueError(f"num_families is {num_families}, wanted at least 2.")
    check_shape("indices", indices, (None,))
    check_integer("indices", indices)
    check_number("ridge", ridge, 0)
    rows, finite, _ = _scaled(records)
    ridge, indices = jnp.asarray(ridge, rows.dtype), class_numbers(jnp.asarray(indices), rows.shape[1])
    families = class_numbers(jnp.asarray(families), num_families)
    asked = jnp.ones(rows.shape[1], bool).at[indices].set(False, mode="drop")
    squares = jax.vmap(_squares_of_family, in_axes=(0, *[None] * 6))(
        jnp.arange(num_families, dtype=jnp.int32), families, rows, finite, indices, asked, ridge
    )
    left, all_of_them = (jnp.sum(part) for part in squares)
    return jnp.where(all_of_them > 0, 1 - left / nonzero(all_of_them), jnp.nan)


def _scaled(records: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the rows divided by their largest score, so that no square leaves the range of floats; finite rows; it."""
    rows, finite = finite_rows(records)
    scale = nonzero(jnp.max(jnp.abs(rows)))
    return rows / scale, finite, scale


def _centered(rows: jax.Array, counts: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return means, rows less the means (0 where only rounding differs), and the squared lengths of rounding."""
    rows = jnp.where(counts[:, None], rows, 0)
    mean = jnp.sum(rows, axis=0) / jnp.maximum(jnp.sum(counts.astype(rows.dtype)), 1)
    centered = jnp.where(counts[:, None], rows - mean[None], 0)
    rounding = jnp.sum((8 * jnp.finfo(rows.dtype).eps * rows) ** 2, axis=0)
    return mean, jnp.where(jnp.sum(centered**2, axis=0) > rounding, centered, 0), rounding


def _choose(total, damping, rounding, state, _):
    residuals, free = state
    products = product(residuals.T, residuals)
    lengths = jnp.diagonal(products)
    gains = jnp.sum(products**2, axis=0) / nonzero(lengths + damping)
    gain, task = first_max(jnp.where(free & (lengths > rounding), gains, 0))
    there = gain > 0
    column = residuals[:, task]
    left = residuals - jnp.outer(column, product(column, residuals)) / nonzero(jnp.sum(column**2))
    left = jnp.where(there, left, residuals).at[:, task].set(jnp.where(there, 0, column))
    explained = 1 - jnp.sum(left**2) / nonzero(total)
    return _Residuals(left, free.at[task].set(free[task] & ~there)), (jnp.where(there, task, len(free)), explained)


def _predict(rows, counts, indices, scores, ridge):
    """Predict from centered columns; index T is a column of zeros."""
    mean, centered, _ = _centered(rows, counts)
    there = indices < rows.shape[1]
    columns = jnp.where(there[None], centered[:, jnp.where(there, indices, 0)], 0)
    own = jnp.where(there, mean[jnp.where(there, indices, 0)], 0)
    gram = product(columns.T, columns)
    penalty = (
        jnp.maximum(ridge, 4 * jnp.finfo(rows.dtype).eps)
        * jnp.trace(gram)
        / jnp.maximum(jnp.sum(there.astype(rows.dtype)), 1)
    )
    gram += jnp.diag(jnp.where(there, nonzero(penalty), 1))  # tasks on which all score the same predict nothing
    slopes = jnp.linalg.solve(gram, product(columns.T, centered))
    given = jnp.where(jnp.broadcast_to(there, scores.shape), scores - jnp.broadcast_to(own, scores.shape), 0)
    found = product(given, slopes)
    return found + jnp.broadcast_to(mean, found.shape)


def _squares_of_family(number, families, rows, finite, indices, asked, ridge):
    """Return squared errors of the prediction and of the mean, for the models of a family by those of the others."""
    mine, others = finite & (families == number), finite & (families != number)
    places = jnp.minimum(indices, rows.shape[1] - 1)
    predicted = _predict(rows, others, indices, rows[:, places], ridge)
    mean = jnp.sum(jnp.where(others[:, None], rows, 0), axis=0) / jnp.maximum(jnp.sum(others.astype(rows.dtype)), 1)
    counted = mine[:, None] & asked[None] & jnp.any(others)
    error, spread = (predicted - rows) ** 2, (mean[None] - rows) ** 2
    return jnp.sum(jnp.where(counted, error, 0)), jnp.sum(jnp.where(counted, spread, 0))
