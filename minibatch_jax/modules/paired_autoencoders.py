"""What ties the codes of two autoencoders together, one for each view: correlation (CorrAE) or distance (DistAE).

The loss of each method is its term plus a weight times the reconstruction errors of both views:

    corr_ae = -matched_correlation(h, g) + weight * (jnp.mean((decode(h) - x) ** 2) + jnp.mean((decode2(g) - y) ** 2))
    dist_ae = jnp.mean(relative_distances(h, g)) + weight * (...)

CorrAE is DCCAE without the condition that the features of a view are uncorrelated: `canonical_correlation` removes what
they share, and here features may repeat each other. DistAE is a sum over examples, and can be weighted, selected and
trained in batches of any size.

References:
  Wang et al., On deep multi-view representation learning, ICML 2015 (arXiv 1602.01024).

Method: CorrAE, DistAE
Paper: 1602.01024
Experiment: noisy_view_correlation
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_floating, check_number, check_shape
from minibatch_jax.devices import sum_over
from minibatch_jax.weights import weight_dtype


def matched_correlation(
    first: jax.Array, second: jax.Array, *, ridge: float | jax.Array = 1e-3, axis_name: str | None = None
) -> jax.Array:
    """Return the sum over features of the correlation of feature i of both views.

    Args:
      first: `[B, d]`, floating point, B > 1.
      second: `[B, d]`, same dtype.
      ridge: > 0, added to the variances of a view, as a fraction of their mean (of 1, if that is 0).
      axis_name: axis of a `shard_map` or `pmap` over which the batch is sharded; the moments are summed over this axis.

    Returns:
      `[]`, between -d and d, float32 (float64 if the views are). The negative is a term of the loss of CorrAE.

    Raises:
      TypeError: if the views are not floating point.
      ValueError: if shapes do not match or the ridge is not positive.

    References:
      Wang et al., On deep multi-view representation learning, ICML 2015 (arXiv 1602.01024).

    Examples:
      >>> x = jnp.array([[1.0, 0.0], [-1.0, 2.0], [0.0, -2.0]])
      >>> round(float(matched_correlation(x, x * jnp.array([[3.0, 5.0]]), ridge=1e-6)), 4)
      2.0
    """
    first, second = _views(first, second)
    check_number("ridge", ridge, 0, open_low=True)

    def mean(x):
        return sum_over(jnp.sum(x, axis=0), axis_name) / sum_over(jnp.asarray(first.shape[0], first.dtype), axis_name)

    x, y = first - mean(first)[None], second - mean(second)[None]
    variances = [mean(view**2) for view in (x, y)]
    scales = [v + ridge * jnp.where(jnp.mean(v) > 0, jnp.mean(v), 1) for v in variances]
    return jnp.sum(mean(x * y) * jax.lax.rsqrt(scales[0]) * jax.lax.rsqrt(scales[1]))


def relative_distances(first: jax.Array, second: jax.Array) -> jax.Array:
    """Return the squared distance of the two codes of each example, divided by the sum of their squared lengths.

    The division keeps a network from reducing the distance by shrinking the codes.

    Args:
      first: `[B, d]`, floating point.
      second: `[B, d]`, same dtype.

    Returns:
      `[B]`, between 0 for equal and 2 for opposite codes, 1 for orthogonal ones; 0 with gradient 0 where both are 0.
      Float32 (float64 if the codes are). The mean is a term of the loss of DistAE, its first variant.

    Raises:
      TypeError: if the codes are not floating point.
      ValueError: if shapes do not match.

    References:
      Wang et al., On deep multi-view representation learning, ICML 2015 (arXiv 1602.01024).

    Examples:
      >>> x = jnp.array([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
      >>> relative_distances(x, jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])).tolist()
      [0.0, 1.0, 0.0]
    """
    first, second = _views(first, second)
    lengths = jnp.sum(first**2 + second**2, axis=1)
    return jnp.sum((first - second) ** 2, axis=1) / jnp.where(lengths > 0, lengths, 1)


def _views(first, second):
    """Both views in float32 at least."""
    check_shape("first", first, (None, None))
    check_shape("second", second, first.shape)
    check_floating("first", first)
    check_floating("second", second)
    dtype = weight_dtype(jnp.promote_types(first.dtype, second.dtype))
    return first.astype(dtype), second.astype(dtype)
