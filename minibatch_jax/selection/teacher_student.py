"""Distill from a teacher's labels: keep the examples that the teacher is sure of and the student is not (LLKD).

The paper asks for a confident teacher and an uncertain student, by two thresholds that depend on the step and on the
pseudo-label and come from moving averages. Its exact formulas could not be read, and no code of it is public. The
thresholds here are our own, in the manner of FreeMatch: the running mean over all examples, lowered for a class by how
far its own running mean is below the highest of all classes. So each class is measured by its own standard, and a hard
one is not starved.

References:
  Li et al., Learning with less: knowledge distillation from large language models via unlabeled data, NAACL Findings
    2025 (arXiv 2411.08028).
  Wang et al., FreeMatch: self-adaptive thresholding for semi-supervised learning, ICLR 2023 (arXiv 2205.07246).

Method: LLKD
Paper: 2411.08028
Experiment: distill_texts
"""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax._checks import check_bool, check_choice, check_count, check_floating, check_number, check_shape
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.devices import sum_over
from minibatch_jax.selection.uncertainty import prediction_entropy
from minibatch_jax.weights import weight_dtype, weight_transformation

WEIGHTINGS = ("own", "confidence", "product")
ROUNDING = 1e-5
"""A value reaches a threshold that is this fraction above it: means of equal numbers differ from them by rounding."""


class TeacherLabels(NamedTuple):
    """What a teacher says about each example.

    Attributes:
      labels: `[N]` int32, its likeliest class, the first of several; -1 where it gives no probabilities.
      confidences: `[N]`, the probability of that class; NaN where it gives no probabilities.
    """

    labels: jax.Array
    confidences: jax.Array


class TeacherStudentState(NamedTuple):
    """Running means of the teacher's confidence and of the student's uncertainty, without bias from their start.

    Attributes:
      confidence: `[]`, over all examples; 0 before the first batch.
      uncertainty: `[]`, the same of the uncertainties, which are in [0, 1].
      num_batches: `[]` int32, batches that the two have seen.
      class_confidence: `[C]`, over the examples with each pseudo-label.
      class_uncertainty: `[C]`, the same of the uncertainties.
      class_batches: `[C]` int32, batches that had an example with this pseudo-label.
      num_ignored: `[]` int32, examples with a weight so far that had no confidence in [0, 1], no label in [0, C) or no
        finite softmax; they got weight 0.
    """

    confidence: jax.Array
    uncertainty: jax.Array
    num_batches: jax.Array
    class_confidence: jax.Array
    class_uncertainty: jax.Array
    class_batches: jax.Array
    num_ignored: jax.Array


def teacher_labels(probabilities: jax.Array) -> TeacherLabels:
    """Return the pseudo-labels of a teacher and how sure it is of each, from its class probabilities.

    Inside `jit` a row that is no probability distribution gets the label -1 and confidence NaN, which selections
    ignore; outside it raises.

    Args:
      probabilities: `[N, C]`, floating point, each row at least 0 with sum 1.

    Returns:
      `TeacherLabels(labels, confidences)`, the confidences in float32 (float64 if the probabilities are).

    Raises:
      TypeError: if the probabilities are not floating point.
      ValueError: if they are not `[N, C]`, there is only one class or, of concrete arrays, a row is no distribution.

    Examples:
      >>> labels, confidences = teacher_labels(jnp.array([[0.25, 0.75], [1.0, 0.0]]))
      >>> labels.tolist(), confidences.tolist()
      ([1, 0], [0.75, 1.0])
    """
    check_shape("probabilities", probabilities, (None, None))
    check_floating("probabilities", probabilities)
    if probabilities.shape[1] < 2:
        raise ValueError(f"probabilities has shape {list(probabilities.shape)}, wanted at least 2 classes.")
    tolerance = 1e-2 if probabilities.dtype.itemsize < 4 else 1e-3
    probabilities = probabilities.astype(weight_dtype(probabilities.dtype))
    sums = jnp.sum(probabilities, axis=1)
    usable = jnp.all(probabilities >= 0, axis=1) & (jnp.abs(sums - 1) <= tolerance)  # False if NaN
    if not isinstance(usable, jax.core.Tracer) and not np.all(usable):
        row = int(np.argmin(usable))
        raise ValueError(f"probabilities[{row}] has the sum {float(sums[row]):.4g}, wanted entries >= 0 with sum 1.")
    labels = jnp.where(usable, jnp.argmax(probabilities, axis=1).astype(jnp.int32), -1)
    return TeacherLabels(labels, jnp.where(usable, jnp.minimum(jnp.max(probabilities, axis=1), 1), jnp.nan))


def class_thresholds(mean: jax.Array, class_means: jax.Array, seen: jax.Array) -> jax.Array:
    """Return the threshold of each class: the mean, times the class mean over the highest class mean.

    Args:
      mean: `[]`, floating point, over all examples, at least 0.
      class_means: `[C]`, over the examples of each class, at least 0.
      seen: `[C]` bool, which classes have a mean. The others have the mean over all examples as their threshold.

    Returns:
      `[C]`, dtype of the class means. If all class means are 0, so that none is behind, it is the mean.

    Raises:
      TypeError: if means are not floating point or `seen` does not hold bools.
      ValueError: if shapes do not match.

    Examples:
      >>> class_thresholds(jnp.array(0.5), jnp.array([0.75, 0.375, 0.0]), jnp.array([True, True, False])).tolist()
      [0.5, 0.25, 0.5]
    """
    check_shape("mean", mean, ())
    check_shape("class_means", class_means, (None,))
    check_floating("mean", mean)
    check_floating("class_means", class_means)
    check_shape("seen", seen, class_means.shape)
    check_bool("seen", seen)
    dtype = weight_dtype(class_means.dtype)
    means = jnp.where(seen, class_means.astype(dtype), 0)
    highest = jnp.max(means)
    ratios = jnp.where(seen & (highest > 0), means / nonzero(highest), 1)
    return (jnp.asarray(mean, dtype) * ratios).astype(class_means.dtype)


def keep_by_teacher_student(
    num_classes: int, decay: float = 0.9, *, weighting: str = "product", axis_name: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """Keep what a teacher is sure of, a student not (LLKD). Signals: `teacher_confidences`, `pseudo_labels`, `logits`.

    The uncertainty of the student is the entropy of its softmax over ln C, in [0, 1]. An example is kept if the
    teacher's confidence and the student's uncertainty both reach the threshold of its pseudo-label, see
    `class_thresholds`. The moving averages take the batch first, then the thresholds are compared. They weigh the
    examples of a batch by the incoming weights; a class that is not in the batch keeps its own.

    An example whose confidence is outside [0, 1], whose pseudo-label is outside [0, C) or whose softmax is not finite
    gets weight 0 and enters no average; the state counts these. If nothing is kept, all weights are 0 and the gradient
    vanishes. Chain with `normalize()` for the weighted mean loss over the kept examples; without it, steps that keep
    little are short.

    Args:
      num_classes: C, at least 2, static.
      decay: of the moving averages, in [0, 1); what stays of the old value.
      weighting: what a kept example weighs: "own", as it came, "confidence", times the teacher's confidence, or
        "product", times the student's uncertainty, too.
      axis_name: axis of `shard_map` or `pmap` over which the batch is sharded; the means are those over all devices.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if `num_classes` is not a static int or, in `update`, a signal has another kind of dtype.
      ValueError: if there is only one class, the decay or the weighting is unknown or, in `update`, shapes do not match
        or, outside of `jit`, an example with a weight has a confidence outside [0, 1].

    References:
      Li et al., NAACL Findings 2025 (arXiv 2411.08028); Wang et al., ICLR 2023 (arXiv 2205.07246).

    Examples:
      >>> tx = keep_by_teacher_student(2, weighting="own")
      >>> weights, logits = jnp.ones(4), jnp.array([[0.0, 0.0], [0.0, 9.0], [0.0, 0.0], [0.0, 9.0]])
      >>> labels, sure = jnp.array([0, 0, 0, 0]), jnp.array([0.9, 0.9, 0.6, 0.6])
      >>> kept, _ = tx.update(weights, tx.init(weights), teacher_confidences=sure, pseudo_labels=labels, logits=logits)
      >>> kept.tolist()
      [1.0, 0.0, 0.0, 0.0]
    """
    check_count("num_classes", num_classes)
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}, wanted at least 2.")
    check_number("decay", decay, 0, 1, open_high=True)
    check_choice("weighting", weighting, WEIGHTINGS)

    def init(weights):
        zero, none = jnp.zeros((), weights.dtype), jnp.zeros((), jnp.int32)
        means, batches = jnp.zeros(num_classes, weights.dtype), jnp.zeros(num_classes, jnp.int32)
        return TeacherStudentState(zero, zero, none, means, means, batches, none)

    def update(weights, state, params=None, *, teacher_confidences, pseudo_labels, logits, **extra_args):
        check_shape("teacher_confidences", teacher_confidences, weights.shape)
        check_shape("pseudo_labels", pseudo_labels, weights.shape)
        check_shape("logits", logits, (*weights.shape, num_classes))
        _check_confidences(teacher_confidences, weights)
        confidences = teacher_confidences.astype(weights.dtype)
        uncertainties = (prediction_entropy(logits) / np.log(num_classes)).astype(weights.dtype)
        classes = class_numbers(pseudo_labels, num_classes)
        usable = (confidences >= 0) & (confidences <= 1) & jnp.isfinite(uncertainties) & (classes < num_classes)
        classes = jnp.where(usable, classes, num_classes)
        ignored = jnp.sum((weights != 0) & ~usable, dtype=jnp.int32)
        values = jnp.where(usable[None], jnp.stack([confidences, uncertainties]), 0)
        shares = jnp.where(usable, jnp.maximum(weights, 0), 0)
        state = _advance(state, shares, values, classes, ignored, decay, axis_name)

        seen = state.class_batches > 0
        bars = jnp.stack(
            [
                class_thresholds(state.confidence, state.class_confidence, seen),
                class_thresholds(state.uncertainty, state.class_uncertainty, seen),
            ]
        )
        reached = values >= bars[:, jnp.minimum(classes, num_classes - 1)] * (1 - ROUNDING)
        factor = {"own": 1, "confidence": values[0], "product": values[0] * values[1]}[weighting]
        return jnp.where(usable & reached[0] & reached[1], weights * factor, 0), state

    return weight_transformation(init, update)


def _check_confidences(confidences: jax.Array, weights: jax.Array) -> None:
    """Raise if a concrete confidence of an example with a weight is outside [0, 1]; NaN passes as a missing one."""
    if isinstance(confidences, jax.core.Tracer) or isinstance(weights, jax.core.Tracer):
        return
    given = np.asarray(confidences, np.float64)[np.asarray(weights) != 0]
    outside = given[(given < 0) | (given > 1)]
    if outside.size:
        raise ValueError(f"teacher_confidences has the entry {outside[0]:.4g}, wanted numbers in [0, 1].")


def _advance(
    state: TeacherStudentState,
    weights: jax.Array,
    values: jax.Array,
    classes: jax.Array,
    ignored: jax.Array,
    decay: float,
    axis_name: str | None,
) -> TeacherStudentState:
    """Return the state after a batch of confidences and uncertainties `[2, B]`."""
    number = jnp.arange(state.class_batches.shape[0], dtype=jnp.int32)
    shares = jnp.where(classes[:, None] == number[None], weights[:, None], 0)
    sums = jnp.sum(values[:, :, None] * shares[None], axis=1)
    sums, mass, ignored = sum_over((sums, jnp.sum(shares, axis=0), ignored), axis_name)

    def moved(old, total, weight, batches):
        """Go toward the new mean at the rate of a moving average whose start is forgotten; constants stay exact."""
        times = jnp.maximum(batches, 1).astype(old.dtype)
        rate = jnp.where(times > 1, (1 - decay) / nonzero(1 - decay**times), 1)
        return jnp.where(weight > 0, old + rate * (total / nonzero(weight) - old), old)

    total, whole = jnp.sum(sums, axis=1), jnp.sum(mass)
    batches = state.num_batches + (whole > 0).astype(jnp.int32)
    class_batches = state.class_batches + (mass > 0).astype(jnp.int32)
    return TeacherStudentState(
        moved(state.confidence, total[0], whole, batches),
        moved(state.uncertainty, total[1], whole, batches),
        batches,
        moved(state.class_confidence, sums[0], mass, class_batches),
        moved(state.class_uncertainty, sums[1], mass, class_batches),
        class_batches,
        state.num_ignored + ignored,
    )
