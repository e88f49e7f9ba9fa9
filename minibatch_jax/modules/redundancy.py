"""A loss that makes two views equal, while every feature keeps its variance and carries information of its own.

References:
  Bardes et al., VICReg: variance-invariance-covariance regularization for self-supervised learning, 2022
    (arXiv 2105.04906).

Method: VICReg
Paper: 2105.04906
Experiment: two_view_correlation
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_number, check_shape


def vicreg_loss(
    first: jax.Array,
    second: jax.Array,
    *,
    invariance: float | jax.Array = 25.0,
    variance: float | jax.Array = 25.0,
    covariance: float | jax.Array = 1.0,
    epsilon: float = 1e-4,
) -> jax.Array:
    """Return the VICReg loss: mean squared difference, hinge of the deviations at 1, squared covariances of features.

    Args:
      first: `[B, D]`, floating point, B > 1.
      second: `[B, D]`, same dtype, the other view of the same examples.
      invariance: weight of the difference.
      variance: weight of the hinges, the mean over the two views and over the features.
      covariance: weight of the sum of squared covariances off the diagonal, divided by D, of both views.
      epsilon: > 0, added to the variances.

    Returns:
      `[]`, the weighted sum of the three terms.

    Raises:
      TypeError: if a view is not floating point.
      ValueError: if shapes do not match or epsilon is not positive.

    References:
      Bardes et al., VICReg, 2022 (arXiv 2105.04906).

    Examples:
      >>> x = jnp.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
      >>> float(vicreg_loss(x, x))
      0.0
    """
    check_shape("first", first, (None, None))
    check_shape("second", second, first.shape)
    check_floating("first", first)
    check_floating("second", second)
    check_number("epsilon", epsilon, 0, open_low=True)
    difference = invariance * jnp.mean((first - second) ** 2)
    return difference + sum((_spread(view, variance, covariance, epsilon) for view in (first, second)), start=0.0)


def _spread(view, variance, covariance, epsilon):
    rows, width = view.shape
    centered = view - jnp.mean(view, axis=0, keepdims=True)
    moments = centered.T @ centered / (rows - 1)
    hinge = jax.nn.relu(1 - jnp.sqrt(jnp.diagonal(moments) + epsilon))
    between = jnp.where(jnp.eye(width, dtype=bool), 0, moments)
    return variance * jnp.mean(hinge) / 2 + covariance * jnp.sum(between**2) / width
