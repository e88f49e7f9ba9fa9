"""Soft labels that a model gives to unlabeled rows itself, and two terms that keep them from collapsing to few classes.

While an epoch runs, predictions of the rows that are visited are written down; at its end they become the labels. So a
model is trained on what it predicted an epoch ago, and not on what it predicts now, which would confirm every mistake.

References:
  Arazo et al., Pseudo-labeling and confirmation bias in deep semi-supervised learning, 2020 (arXiv 1908.02983).
  Tanaka et al., Joint optimization framework for learning with noisy labels, 2018 (arXiv 1803.11364).

Method: pseudo-labels by example, balanced
Paper: 1908.02983
Experiment: pseudo_labels
"""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_bool, check_count, check_floating, check_integer, check_shape
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.devices import bound_axis, gather_rows, max_over, replicate, sum_over
from minibatch_jax.weights import weight_dtype


class SoftLabels(NamedTuple):
    """Labels of all N rows of a data set as probabilities of C classes.

    Attributes:
      labels: `[N, C]` float32, what to train on now: one-hot for labeled rows, and for unlabeled ones zeros until they
        get probabilities.
      pending: `[N, C]` float32, probabilities written since the last publication.
      visited: `[N]` bool, rows written since the last publication.
      labeled: `[N]` bool, rows whose label is known and stays.
      ignored: `[]` int32, rows of writes that were no row of the data set or had no probabilities.
    """

    labels: jax.Array
    pending: jax.Array
    visited: jax.Array
    labeled: jax.Array
    ignored: jax.Array


def init_soft_labels(labels: jax.Array, num_classes: int) -> SoftLabels:
    """Start a memory of soft labels: one-hot for rows with a label, zeros for the others.

    Weights made of zeros are zero, so that a row takes no part in the training before it has a label.

    Args:
      labels: `[N]` int; those outside [0, C), such as -1, are unknown.
      num_classes: C, static.

    Returns:
      `SoftLabels`; keep it in the training state.

    Raises:
      TypeError: if labels are not integers or the number of classes is not a static int.
      ValueError: if labels are empty or not of rank 1, or the number of classes is below 1.

    Examples:
      >>> init_soft_labels(jnp.array([1, -1]), 2).labels.tolist()
      [[0.0, 1.0], [0.0, 0.0]]
    """
    check_shape("labels", labels, (None,))
    check_integer("labels", labels)
    check_count("num_classes", num_classes)
    known = class_numbers(labels, num_classes)
    one_hot = jax.nn.one_hot(known, num_classes, dtype=jnp.float32)
    nothing = jnp.zeros(labels.shape, bool)
    return SoftLabels(one_hot, jnp.zeros_like(one_hot), nothing, known < num_classes, jnp.zeros((), jnp.int32))


def write_soft_labels(
    memory: SoftLabels, example_ids: jax.Array, probabilities: jax.Array, *, axis_name: str | None = None
) -> SoftLabels:
    """Write down what the model predicts of the rows of a batch; the labels do not change before they are published.

    The last prediction of a row counts, also where a batch has a row twice. Ids outside [0, N), and rows whose numbers
    are not finite, negative or do not sum to 1 up to 1 %, are ignored and counted; -1 is padding and not counted. Take
    predictions of the rows as they are, without augmentation, dropout or mixup. They are constants for the gradient.

    Args:
      memory: the memory so far.
      example_ids: `[B]` int, rows of the data set.
      probabilities: `[B, C]`, floating point, such as a softmax.
      axis_name: axis of a `shard_map` or `pmap` over which the batch is sharded while each device holds the whole
        memory; every device then writes down all rows.

    Returns:
      The memory with these rows pending.

    Raises:
      TypeError: if ids are not integers or probabilities not floating point.
      ValueError: if a shape does not fit or, outside of `jit`, a row that is no padding does not sum to 1.

    Examples:
      >>> memory = init_soft_labels(jnp.array([1, -1]), 2)
      >>> memory = write_soft_labels(memory, jnp.array([0, 1]), jnp.array([[0.5, 0.5], [0.75, 0.25]]))
      >>> memory.labels.tolist(), publish_soft_labels(memory).labels.tolist()
      ([[0.0, 1.0], [0.0, 0.0]], [[0.0, 1.0], [0.75, 0.25]])
    """
    number, classes = memory.labels.shape
    check_shape("example_ids", example_ids, (None,))
    check_integer("example_ids", example_ids)
    check_shape("probabilities", probabilities, (example_ids.shape[0], classes))
    check_floating("probabilities", probabilities)
    batch = example_ids, jax.lax.stop_gradient(probabilities)
    if bound_axis(axis_name):
        assert axis_name is not None
        batch = tuple(gather_rows(array, axis_name) for array in batch)
    ids, probabilities = replicate(batch)
    probabilities = probabilities.astype(jnp.float32)
    usable = _are_probabilities(probabilities)
    _check_rows("probabilities", probabilities, usable | (ids == -1))
    known = class_numbers(ids, number)
    usable = usable & (known < number)
    rows = jnp.where(usable, known, number)
    order = jnp.arange(len(rows), dtype=jnp.int32)
    last = jnp.full(number, -1, jnp.int32).at[rows].max(order, mode="drop")
    rows = jnp.where(usable & (last[jnp.minimum(rows, number - 1)] == order), rows, number)
    return memory._replace(
        pending=memory.pending.at[rows].set(probabilities, mode="drop"),
        visited=memory.visited.at[rows].set(True, mode="drop"),
        ignored=memory.ignored + jnp.sum(~usable & (ids != -1), dtype=jnp.int32),
    )


def publish_soft_labels(memory: SoftLabels, when: bool | jax.Array = True) -> SoftLabels:
    """Make what was written the labels, at the end of an epoch: of unlabeled rows that were visited, and of no others.

    Labeled rows keep their label, and rows that were not visited keep what they had.

    Args:
      memory: the memory so far.
      when: `[]` bool, may be traced: whether an epoch ended; False changes nothing.

    Returns:
      The memory with new labels, in which no row counts as visited.

    Raises:
      TypeError: if `when` is no bool, such as a number of epochs.
      ValueError: if `when` has a shape.

    Examples:
      >>> memory = init_soft_labels(jnp.array([-1, -1]), 2)
      >>> memory = write_soft_labels(memory, jnp.array([1]), jnp.array([[0.25, 0.75]]))
      >>> publish_soft_labels(publish_soft_labels(memory)).labels.tolist()
      [[0.0, 0.0], [0.25, 0.75]]
    """
    now = jnp.asarray(when)
    check_shape("when", now, ())
    check_bool("when", now)
    new = memory.visited & ~memory.labeled & now
    labels = jnp.where(new[:, None], memory.pending, memory.labels)
    return memory._replace(labels=labels, visited=memory.visited & ~now)


def class_balance(
    logits: jax.Array,
    weights: jax.Array | None = None,
    *,
    prior: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Return the cross-entropy of the mean prediction against a prior over classes, for training without collapse.

    It is `-sum_c prior_c log m_c` with `m_c = sum_b w_b p_bc` and weights that sum to 1. Its minimum is the entropy of
    the prior, log C if that is uniform, exactly where the mean prediction is the prior. It is a function of the batch
    and no sum over its rows, yet its gradient is that of weights `[B, C]` on the losses `-log p_bc`, which are
    `prior_c w_b p_bc / m_c`: the mass of each class is shared among the rows in proportion to their predictions.

    Computed from logits, it needs no small number in the logarithm. Rows whose logits are not all finite, and
    rows of weight 0, do not count; if no row counts, the result is 0.

    Args:
      logits: `[B, C]`, floating point.
      weights: `[B]`, >= 0, such as those of the sampler; equal by default.
      prior: `[C]`, >= 0 with the sum 1; uniform by default.
      axis_name: axis of a `shard_map` or `pmap` over which the batch is sharded. The mean is then over all devices;
        without it each of them balances its own rows, which is another objective.

    Returns:
      `[]`, float32 or float64.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if a shape does not fit or, outside of `jit`, the prior is no distribution.

    References:
      Tanaka et al., Joint optimization framework for learning with noisy labels, 2018 (arXiv 1803.11364).

    Examples:
      >>> even, odd = jnp.array([[9.0, -9.0], [-9.0, 9.0]]), jnp.array([[9.0, -9.0], [9.0, -9.0]])
      >>> round(float(class_balance(even)), 4), round(float(class_balance(odd)), 4)
      (0.6931, 9.0)
    """
    log_p, weights, total = _checked(logits, weights, axis_name)
    if prior is not None:
        check_shape("prior", prior, logits.shape[1:])
        check_floating("prior", prior)
        _check_rows("prior", prior[None], _are_probabilities(prior[None]))
    target = jnp.full(logits.shape[1], 1 / logits.shape[1], log_p.dtype) if prior is None else prior
    exponents = jnp.where(weights[:, None] > 0, log_p, -jnp.inf)
    high = max_over(jnp.max(exponents, axis=0), axis_name)
    high = jnp.where(jnp.isfinite(high), high, 0)
    mass = sum_over(jnp.sum(weights[:, None] * jnp.exp(exponents - high[None]), axis=0), axis_name)
    log_mean = high + jnp.log(jnp.where(total > 0, mass, 1)) - jnp.log(nonzero(total))
    return jnp.where(total > 0, -jnp.sum(target.astype(log_p.dtype) * log_mean), 0)


def mean_entropy(logits: jax.Array, weights: jax.Array | None = None, *, axis_name: str | None = None) -> jax.Array:
    """Return the weighted mean of the entropies of the predictions: low where the model is sure.

    Rows whose logits are not all finite, and rows of weight 0, do not count; if no row counts, the result is 0.

    Args:
      logits: `[B, C]`, floating point.
      weights: `[B]`, >= 0, such as those of the sampler; equal by default.
      axis_name: axis of a `shard_map` or `pmap` over which the batch is sharded; the mean is then over all devices.

    Returns:
      `[]` in nats, float32 or float64.

    Raises:
      TypeError: if an array is not floating point.
      ValueError: if a shape does not fit.

    Examples:
      >>> round(float(mean_entropy(jnp.array([[0.0, 0.0], [99.0, 0.0]]))), 4)
      0.3466
    """
    log_p, weights, total = _checked(logits, weights, axis_name)
    entropies = -jnp.sum(jnp.exp(log_p) * log_p, axis=1)
    return sum_over(jnp.sum(weights * entropies), axis_name) / nonzero(total)


def _checked(
    logits: jax.Array, weights: jax.Array | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return log-probabilities, the weights of the rows that count, and their sum over all devices."""
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    dtype = weight_dtype(logits.dtype)
    if weights is None:
        weights = jnp.ones(logits.shape[0], dtype)
    check_shape("weights", weights, logits.shape[:1])
    check_floating("weights", weights)
    logits = logits.astype(dtype)
    finite = jnp.all(jnp.isfinite(jax.nn.log_softmax(logits, axis=1)), axis=1)
    counts = finite & jnp.isfinite(weights) & (weights > 0)
    weights = jax.lax.stop_gradient(jnp.where(counts, weights, 0).astype(dtype))
    log_p = jax.nn.log_softmax(jnp.where(counts[:, None], logits, 0), axis=1)
    return log_p, weights, sum_over(jnp.sum(weights), axis_name)


def _are_probabilities(probabilities: jax.Array) -> jax.Array:
    """Return which rows `[B]` are finite, not negative, and sum to 1."""
    return jnp.all(probabilities >= 0, axis=1) & (jnp.abs(jnp.sum(probabilities, axis=1) - 1) < 0.01)


def _check_rows(name: str, probabilities: jax.Array, usable: jax.Array) -> None:
    """Raise where a row of finite numbers is no distribution; one that is not finite is ignored and counted."""
    if isinstance(probabilities, jax.core.Tracer) or isinstance(usable, jax.core.Tracer):
        return
    values = np.asarray(probabilities, np.float32)
    wrong = np.flatnonzero(~np.asarray(usable) & np.all(np.isfinite(values), axis=1))
    if len(wrong):
        row = values[wrong[0]]
        raise ValueError(
            f"{name} has the sum {row.sum():.4g} and the smallest number {row.min():.4g} in row {wrong[0]}, wanted the "
            "sum 1 and no negative number."
        )
