"""When to stop labeling: rules that watch the predictions on a fixed set of examples from one round to the next.

A rule is a pair of pure functions, for use in `jit`, `scan` and a host loop alike:

  state = rule.init(num_rows)                  rows of the set, which needs no labels
  stop, state = rule.update(state, logits)     once after each training

All rules take the same logits, so several of them can watch one run: `stop_one | stop_other`. Rows whose softmax is NaN
do not count; if none is left, no rule but `stop_after` stops.

References:
  Bloodgood & Vijay-Shanker, A method for stopping active learning based on stabilizing predictions, CoNLL 2009.
  Altschuler & Bloodgood, Stopping active learning based on predicted change of F measure for text classification, ICSC
  2019 (arXiv 1901.09118).
  Zhu, Wang & Hovy, Multi-criteria-based strategy to stop active learning for data annotation, COLING 2008.

Method: stopping rules of active learning
Paper: 1901.09118
Experiment: active_texts
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_number, check_shape
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.selection.uncertainty import prediction_entropy


class StoppingState(NamedTuple):
    """What a rule remembers.

    Attributes:
      predictions: `[N]` int32, likeliest class of each row at the last check; -1 for a row that did not count.
      values: `[window]` float32, what the rule measured at the last checks, the newest last; NaN before.
      checks: `[]` int32, number of checks so far.
    """

    predictions: jax.Array
    values: jax.Array
    checks: jax.Array


class StoppingRule(NamedTuple):
    """A rule for when to stop labeling. Both functions are pure.

    Attributes:
      init: `init(num_rows) -> state`.
      update: `update(state, logits [N, C]) -> (stop, state)`, with `stop` `[]` bool.
    """

    init: Callable[[int], StoppingState]
    update: Callable[[StoppingState, jax.Array], tuple[jax.Array, StoppingState]]


def cohen_kappa(first: jax.Array, second: jax.Array, num_classes: int) -> jax.Array:
    """Return how far two classifications agree beyond chance: 1 if they are equal, 0 if they are independent.

    Args:
      first: `[N]` int.
      second: `[N]` int. A row with a class outside [0, num_classes) in either does not count.
      num_classes: number of classes, static.

    Returns:
      `[]` float32, at most 1; NaN if no row counts.

    Raises:
      TypeError: if the classes are not integers or their number is not a static int.
      ValueError: if the shapes differ or there is no class.

    References:
      Cohen, A coefficient of agreement for nominal scales, 1960.

    Examples:
      >>> float(cohen_kappa(jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 1, 1]), 2))
      0.5
    """
    check_count("num_classes", num_classes)
    first, second, counts, number = _counted(first, second, num_classes)
    columns = jnp.arange(num_classes, dtype=jnp.int32)[None]
    named = _number((first[:, None] == columns) & counts[:, None]) / number
    named_else = _number((second[:, None] != columns) & counts[:, None]) / number
    differ = _number((first != second) & counts) / number
    by_chance = jnp.sum(named * named_else)  # how many would differ: exact where nearly all rows are of one class
    return 1 - differ / nonzero(by_chance)  # no chance to differ: both name one class, the same


def f_score_change(old: jax.Array, new: jax.Array) -> jax.Array:
    """Return 1 minus the F1 score of new binary predictions against old ones, with no label of either.

    Args:
      old: `[N]` int, 1 for a positive.
      new: `[N]` int, 1 for a positive. A row with another number than 0 and 1 in either does not count.

    Returns:
      `[]` float32, in [0, 1]: 0 if both have the same positives, or none; NaN if no row counts.

    Raises:
      TypeError: if the predictions are not integers.
      ValueError: if the shapes differ.

    References:
      Altschuler & Bloodgood, ICSC 2019 (arXiv 1901.09118).

    Examples:
      >>> float(f_score_change(jnp.array([1, 1, 0, 0]), jnp.array([1, 0, 1, 0])))
      0.5
    """
    old, new, counts, number = _counted(old, new, 2)
    positives = _number((old == 1) & counts) + _number((new == 1) & counts)
    return jnp.where(jnp.isnan(number), jnp.nan, _number((old != new) & counts) / nonzero(positives))


def stop_by_kappa(*, window: int = 3, threshold: float = 0.99) -> StoppingRule:
    """Stop when the predictions are stable: the mean of the last `window` values of Cohen's kappa is large.

    Each value compares the predictions of two successive checks.

    Args:
      window: how many values count, static.
      threshold: least mean kappa to stop at, at most 1.

    Returns:
      A rule.

    Raises:
      TypeError: if an argument is not a number.
      ValueError: if an argument is out of range.

    References:
      Bloodgood & Vijay-Shanker, CoNLL 2009.

    Examples:
      >>> rule = stop_by_kappa(window=1)
      >>> state = rule.init(2)
      >>> stops = []
      >>> for logits in ([[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]], [[0.0, 2.0], [2.0, 0.0]]):
      ...   stop, state = rule.update(state, jnp.array(logits))
      ...   stops.append(bool(stop))
      >>> stops
      [False, False, True]
    """
    check_number("threshold", threshold, None, 1)
    return _rule(_kappa, lambda values: jnp.mean(values) >= threshold, window)


def stop_by_f_score(*, window: int = 3, threshold: float = 0.05) -> StoppingRule:
    """Stop when the F1 score can hardly change: `f_score_change` was small at each of the last `window` checks.

    The logits are those of two classes, of which the second is the positive one.

    Args:
      window: how many values count, static.
      threshold: what a change must be below, in [0, 1].

    Returns:
      A rule. Its `update` raises `ValueError` if the logits are not `[N, 2]`.

    Raises:
      TypeError: if an argument is not a number.
      ValueError: if an argument is out of range.

    References:
      Altschuler & Bloodgood, ICSC 2019 (arXiv 1901.09118).

    Examples:
      >>> rule = stop_by_f_score(window=1)
      >>> logits = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> stop, state = rule.update(rule.init(2), logits)
      >>> bool(stop), bool(rule.update(state, logits)[0])
      (False, True)
    """
    check_number("threshold", threshold, 0, 1)
    return _rule(_f_score, lambda values: jnp.all(values < threshold), window)


def stop_by_changes(*, threshold: float = 0.0) -> StoppingRule:
    """Stop when at most this fraction of the predictions changed since the last check.

    Args:
      threshold: largest fraction that may change, in [0, 1].

    Returns:
      A rule.

    Raises:
      TypeError: if the threshold is not a number.
      ValueError: if it is out of range.

    References:
      Zhu, Wang & Hovy, COLING 2008.

    Examples:
      >>> rule = stop_by_changes()
      >>> logits = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> stop, state = rule.update(rule.init(2), logits)
      >>> bool(stop), bool(rule.update(state, logits)[0])
      (False, True)
    """
    check_number("threshold", threshold, 0, 1)
    return _rule(_changed, lambda values: values[-1] <= threshold, 1)


def stop_by_uncertainty(*, threshold: float = 0.05) -> StoppingRule:
    """Stop when the model is sure: the mean entropy of its predictions is a small part of the largest one, ln C.

    Args:
      threshold: what the mean part must be below, in [0, 1].

    Returns:
      A rule. Its `update` raises `ValueError` if there is only one class.

    Raises:
      TypeError: if the threshold is not a number.
      ValueError: if it is out of range.

    References:
      Zhu, Wang & Hovy, COLING 2008.

    Examples:
      >>> rule = stop_by_uncertainty()
      >>> [bool(rule.update(rule.init(1), jnp.array([[0.0, logit]]))[0]) for logit in (1.0, 9.0)]
      [False, True]
    """
    check_number("threshold", threshold, 0, 1)
    return _rule(_entropy, lambda values: values[-1] < threshold, 1)


def stop_after(checks: int) -> StoppingRule:
    """Stop at the given check, whatever the predictions are.

    Args:
      checks: number of checks, at least 1, static.

    Returns:
      A rule.

    Raises:
      TypeError: if the number is not a static int.
      ValueError: if it is less than 1.

    Examples:
      >>> rule = stop_after(2)
      >>> stop, state = rule.update(rule.init(1), jnp.zeros((1, 2)))
      >>> bool(stop), bool(rule.update(state, jnp.zeros((1, 2)))[0])
      (False, True)
    """
    check_count("checks", checks)

    def update(state, logits):
        _, state = _update(_changed, jnp.any, state, logits)
        return state.checks >= checks, state

    return StoppingRule(functools.partial(_init, 1), update)


def _rule(measure: Callable[..., jax.Array], decide: Callable[[jax.Array], jax.Array], window: int) -> StoppingRule:
    """Make a rule of `measure(old, new, logits) -> []`, NaN if no row counts, and `decide(values) -> stop`."""
    check_count("window", window)
    return StoppingRule(functools.partial(_init, window), functools.partial(_update, measure, decide))


def _init(window: int, num_rows: int) -> StoppingState:
    check_count("num_rows", num_rows)
    return StoppingState(
        jnp.full(num_rows, -1, jnp.int32), jnp.full(window, jnp.nan, jnp.float32), jnp.zeros((), jnp.int32)
    )


def _update(measure, decide, state: StoppingState, logits: jax.Array) -> tuple[jax.Array, StoppingState]:
    check_shape("logits", logits, (state.predictions.shape[0], None))
    check_floating("logits", logits)
    known = jnp.isfinite(jnp.max(logits, axis=1))
    predictions = jnp.where(known, jnp.argmax(logits, axis=1).astype(jnp.int32), -1)
    value = measure(state.predictions, predictions, logits).astype(jnp.float32)
    values = jnp.append(state.values[1:], value)
    return decide(values), StoppingState(predictions, values, state.checks + 1)


def _kappa(old, new, logits):
    return cohen_kappa(old, new, logits.shape[1])


def _f_score(old, new, logits):
    check_shape("logits", logits, (old.shape[0], 2))
    return f_score_change(old, new)


def _changed(old, new, logits):
    old, new, counts, number = _counted(old, new, logits.shape[1])
    return _number((old != new) & counts) / number


def _entropy(old, new, logits):
    if logits.shape[1] < 2:
        raise ValueError(f"logits has shape {list(logits.shape)}, wanted at least 2 classes.")
    known = new >= 0
    total = jnp.sum(jnp.where(known, prediction_entropy(logits), 0)).astype(jnp.float32)
    number = _number(known)
    return jnp.where(number > 0, total / nonzero(number) / math.log(logits.shape[1]), jnp.nan)


def _counted(first, second, num_classes: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return both classes in int32, the mask of the rows that count, and their number in float32, NaN in place of 0."""
    check_shape("first", first, (None,))
    check_shape("second", second, first.shape)
    check_integer("first", first)
    check_integer("second", second)
    first, second = class_numbers(first, num_classes), class_numbers(second, num_classes)
    counts = (first < num_classes) & (second < num_classes)
    number = _number(counts)
    return first, second, counts, jnp.where(number > 0, number, jnp.nan)


def _number(mask: jax.Array) -> jax.Array:
    """Count what is True along the first axis, in float32."""
    return jnp.sum(mask, axis=0, dtype=jnp.int32).astype(jnp.float32)
