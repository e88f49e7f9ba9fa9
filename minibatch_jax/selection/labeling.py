"""The labels of a pool as they come in, round by round: which rows have one, and which weights a strategy sees.

A round is: train on the rows that have a label, let a strategy keep some of the weights of the others, ask for their
labels, add them. All functions are pure and of static shapes, for a simulation inside `jit`, `scan` and `vmap`, where
the labels are known; `minibatch_jax.pool.label_in_rounds` is the loop for people who answer, with its state on disk.

References:
  Schröder et al., Small-Text: active learning for text classification in Python, EACL 2023 (arXiv 2107.10314).

Method: labeling in rounds
Paper: 2107.10314
Experiment: active_texts, active_transformer
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from minibatch_jax._checks import check_count, check_floating, check_integer, check_shape
from minibatch_jax._vector import class_numbers


class Labeling(NamedTuple):
    """The labels of N rows so far.

    Attributes:
      labels: `[N]` int32, class of each row; -1 for a row without a label.
      rounds: `[N]` int32, the round that labeled each row, 0 for labels that were there at the start; -1 without a
        label.
      round: `[]` int32, number of rounds so far.
      refused: `[]` int32, number of labels that were not taken: for a row that is none or has another label, or of a
        class that is none.
    """

    labels: jax.Array
    rounds: jax.Array
    round: jax.Array
    refused: jax.Array


def start_labeling(labels: jax.Array) -> Labeling:
    """Return the state before the first round.

    Args:
      labels: `[N]` int, those that are known; negative for a row without a label.

    Returns:
      The state.

    Raises:
      TypeError: if the labels are not integers.
      ValueError: if they are not of rank 1, or empty.

    Examples:
      >>> start_labeling(jnp.array([-1, 3])).rounds.tolist()
      [-1, 0]
    """
    check_shape("labels", labels, (None,))
    check_integer("labels", labels)
    known = labels >= 0
    zero = jnp.zeros((), jnp.int32)
    return Labeling(
        jnp.where(known, labels.astype(jnp.int32), -1), jnp.where(known, 0, -1).astype(jnp.int32), zero, zero
    )


def unlabeled_weights(state: Labeling) -> jax.Array:
    """Return what a strategy starts from: 1 for each row without a label, 0 for the others.

    Args:
      state: the labels so far.

    Returns:
      `[N]` float32 (float64 if JAX runs with x64).

    Examples:
      >>> unlabeled_weights(start_labeling(jnp.array([-1, 3]))).tolist()
      [1.0, 0.0]
    """
    return (state.labels < 0).astype(jnp.zeros(()).dtype)


def kept_rows(weights: jax.Array, k: int) -> jax.Array:
    """Return the rows that a strategy kept, those with a weight, in their order.

    Args:
      weights: `[N]`, floating point.
      k: how many rows to return at most, static.

    Returns:
      `[k]` int32; N, one past the end, where fewer were kept.

    Raises:
      TypeError: if the weights are not floating point or k is not a static int.
      ValueError: if the weights are not of rank 1 or k is not in [1, N].

    Examples:
      >>> kept_rows(jnp.array([0.0, 1.0, 0.0, 1.0]), 3).tolist()
      [1, 3, 4]
    """
    check_shape("weights", weights, (None,))
    check_floating("weights", weights)
    size = weights.shape[0]
    check_count("k", k, size, "the number of weights")
    places = jnp.where(weights != 0, jnp.cumsum(weights != 0, dtype=jnp.int32) - 1, k)
    return jnp.full(k, size, jnp.int32).at[places].set(jnp.arange(size, dtype=jnp.int32), mode="drop")


def add_labels(state: Labeling, indices: jax.Array, labels: jax.Array, *, num_classes: int) -> Labeling:
    """Return the state after one more round, in which these rows were labeled.

    A row keeps the label it has: another one is refused, and so are two different ones at once. Outside of `jit` what
    is refused raises; inside it is counted in `refused`, which a user should look at. An index N, one past the end,
    stands for no row and is ignored.

    Args:
      state: the labels so far.
      indices: `[k]` int, rows.
      labels: `[k]` int, their classes.
      num_classes: C, static.

    Returns:
      The new state.

    Raises:
      TypeError: if indices or labels are not integers or the number of classes is not a static int.
      ValueError: if there are not as many labels as indices or, outside of `jit`, a row is out of range, a label is not
        in [0, C), or a row has another label.

    Examples:
      >>> state = add_labels(start_labeling(jnp.array([-1, 3, -1])), jnp.array([2]), jnp.array([0]), num_classes=4)
      >>> state.labels.tolist(), state.rounds.tolist()
      ([-1, 3, 0], [-1, 0, 1])
    """
    check_shape("indices", indices, (None,))
    check_shape("labels", labels, indices.shape)
    check_integer("indices", indices)
    check_integer("labels", labels)
    check_count("num_classes", num_classes)
    if not any(isinstance(x, Tracer) for x in (state.labels, indices, labels)):
        _check_labels(np.asarray(state.labels), np.asarray(indices), np.asarray(labels), num_classes)
    size = state.labels.shape[0]
    rows, classes = class_numbers(indices, size), class_numbers(labels, num_classes)
    known = (rows < size) & (classes < num_classes)
    targets = jnp.where(known, rows, size)
    highest = state.labels.at[targets].max(classes, mode="drop")
    lowest = jnp.where(state.labels < 0, num_classes, state.labels).at[targets].min(classes, mode="drop")
    agreed = (lowest == highest) | (lowest == num_classes)
    new_labels = jnp.where(agreed, highest, state.labels)
    taken = known & (new_labels[jnp.minimum(rows, size - 1)] == classes)
    number = state.round + 1
    return Labeling(
        new_labels,
        jnp.where((state.labels < 0) & (new_labels >= 0), number, state.rounds),
        number,
        state.refused + jnp.sum(~taken & (indices != size), dtype=jnp.int32),
    )


def _check_labels(known: np.ndarray, indices: np.ndarray, labels: np.ndarray, num_classes: int) -> None:
    before = dict(enumerate(known.tolist()))
    for index, label in zip(indices.tolist(), labels.tolist()):
        if index == len(known):
            continue
        if index not in before:
            raise ValueError(f"indices has the row {index}, wanted rows in [0, {len(known)}).")
        if not 0 <= label < num_classes:
            raise ValueError(f"labels has the class {label} for row {index}, wanted classes in [0, {num_classes}).")
        if before[index] not in (-1, label):
            raise ValueError(
                f"labels has the class {label} for row {index}, wanted {before[index]}, the label that it has."
            )
        before[index] = label
