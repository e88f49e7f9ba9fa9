"""Examples that are far from the main center of their class: likely wrong labels, by the sub-centers of ArcFace.

References:
  Deng et al., Sub-center ArcFace: boosting face recognition by large-scale noisy web faces, ECCV 2020.

Method: outliers of sub-centers
Experiment: wrong_label_search
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_integer, check_number, check_shape
from minibatch_jax._vector import class_numbers
from minibatch_jax.weights import weight_dtype


class SubCenterOutliers(NamedTuple):
    """Which examples are outliers of their class.

    Attributes:
      mask: `[N]` bool, True for an outlier; False for an example without a class or with similarities that are not
        finite.
      dominant: `[C]` int32, the center of each class that most of its examples are nearest to; 0 for a class without
        examples.
    """

    mask: jax.Array
    dominant: jax.Array


def sub_center_outliers(
    similarities: jax.Array, labels: jax.Array, *, angle: float | jax.Array = math.pi / 2.4
) -> SubCenterOutliers:
    """Find the examples that are farther than an angle from the dominant center of their class.

    The dominant center of a class is the one that most of its examples are nearest to; ties go to the first. Training
    with several centers for each class lets wrong labels gather at the other centers; drop the outliers, and train a
    model with one center on the rest.

    Args:
      similarities: `[N, C, K]`, floating point, cosine of each example to the K centers of each of C classes.
      labels: `[N]` int in [0, C), class of each example; examples with other labels are left out.
      angle: in [0, pi], in radians; pi / 2.4 (75 degrees) by default, as published.

    Returns:
      `SubCenterOutliers(mask, dominant)`.

    Raises:
      TypeError: if the similarities are not floating point or the labels not integers.
      ValueError: if shapes do not match or the angle is out of range.

    References:
      Deng et al., Sub-center ArcFace, ECCV 2020.

    Examples:
      >>> similarities = jnp.array([[[0.9, 0.1]], [[0.8, 0.3]], [[0.0, 0.7]]])
      >>> found = sub_center_outliers(similarities, jnp.array([0, 0, 0]))
      >>> found.mask.tolist(), found.dominant.tolist()
      ([False, False, True], [0])
    """
    check_shape("similarities", similarities, (None, None, None))
    check_floating("similarities", similarities)
    size, classes, centers = similarities.shape
    check_shape("labels", labels, (size,))
    check_integer("labels", labels)
    check_number("angle", angle, 0, math.pi)
    numbers = class_numbers(labels, classes)
    own = jnp.take_along_axis(similarities, jnp.minimum(numbers, classes - 1)[:, None, None], axis=1)[:, 0]
    usable = (numbers < classes) & jnp.all(jnp.isfinite(own), axis=1)
    own = jnp.where(usable[:, None], own, 0).astype(weight_dtype(own.dtype))
    nearest = jnp.argmax(own, axis=1)
    counts = (
        jnp.zeros((classes, centers), jnp.int32).at[jnp.where(usable, numbers, classes), nearest].add(1, mode="drop")
    )
    dominant = jnp.argmax(counts, axis=1).astype(jnp.int32)
    to_dominant = jnp.take_along_axis(own, dominant[jnp.minimum(numbers, classes - 1)][:, None], axis=1)[:, 0]
    return SubCenterOutliers(usable & (to_dominant < jnp.cos(angle)), dominant)
