"""Losses of embeddings and one learned vector, or several, for each class: the references are classes.

With `classes = jnp.arange(C)` the masks are `positive_mask(labels, classes)` and `negative_mask(labels, classes)`. Two
more are found elsewhere: `info_nce_loss` of minus squared distances to proxies is ProxyNCA, of cosines at temperature
0.05 the normalized softmax; `orthogonal_pair_loss` of cosines is P2SGrad.

References:
  Liu et al., SphereFace: deep hypersphere embedding for face recognition, 2017 (arXiv 1704.08063).
  Wang et al., CosFace: large margin cosine loss for deep face recognition, 2018 (arXiv 1801.09414).
  Deng et al., ArcFace: additive angular margin loss for deep face recognition, 2019 (arXiv 1801.07698).
  Qian et al., SoftTriple loss: deep metric learning without triplet sampling, 2019 (arXiv 1909.05235).
  Kim et al., Proxy anchor loss for deep metric learning, 2020 (arXiv 2003.13911).
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax.mining._losses import info_nce_loss, log1p_sum_exp
from minibatch_jax.mining._pairs import check_positive, finite_pairs
from minibatch_jax.mining._reductions import reduce_losses


def margin_softmax_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    angle: float | jax.Array = 0.0,
    cosine: float | jax.Array = 0.0,
    multiple: int = 1,
    scale: float | jax.Array = 64.0,
    reduction: str = "mean",
) -> jax.Array:
    """Softmax cross-entropy whose true class is handicapped: ArcFace (angle 0.5), CosFace (cosine 0.35), SphereFace.

    Args:
      similarities: `[A, C]`, cosine of each embedding to each class, floating point. For sub-centers take the maximum
        over the centers of a class, for SoftTriple `soften_centers`.
      positives: `[A, C]` bool, the class of each embedding.
      negatives: `[A, C]` bool, the other classes.
      angle: >= 0, added to the angle to the true class, in radians.
      cosine: subtracted from the cosine of the true class.
      multiple: static factor of the angle to the true class: 4 for SphereFace. Above 1 no angle may be added.
      scale: of the logits; `[A, 1]` norms of the embeddings for SphereFace.
      reduction: of the losses of embeddings with a class, see `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "none".

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or `multiple` not a static int.
      ValueError: if shapes do not match, the angle is out of range, or the reduction is unknown.

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> round(float(margin_softmax_loss(jnp.array([[0.6, 0.1]]), positives, ~positives, cosine=0.5)), 4)  # log(2)
      0.6931
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_number("angle", angle, 0, 3.14)
    check_count("multiple", multiple)
    if multiple > 1 and isinstance(angle, int | float) and angle > 0:
        raise ValueError(
            f"angle is {angle} and multiple is {multiple}, wanted an added or a multiplied angle, not both."
        )
    own = jnp.where(positives, similarities, 0)
    own = _added_angle(own, angle) if multiple == 1 else _multiple_angle(own, multiple)
    logits = scale * jnp.where(positives, own - cosine, similarities)
    return info_nce_loss(logits, positives, negatives, temperature=1.0, reduction=reduction)


def soften_centers(similarities: jax.Array, *, temperature: float | jax.Array = 0.1) -> jax.Array:
    """Similarity to each class from those to its centers, weighed by their softmax: SoftTriple.

    Args:
      similarities: `[A, C, K]`, floating point, to the K centers of each class.
      temperature: > 0; towards 0 it is the maximum.

    Returns:
      `[A, C]`; SoftTriple is its `margin_softmax_loss` with `cosine=0.01, scale=20`.

    Raises:
      TypeError: if the similarities are not floating point.
      ValueError: if they are not of rank 3 or the temperature is not positive.

    Examples:
      >>> soften_centers(jnp.array([[[0.5, 0.5], [0.25, 0.25]]])).tolist()
      [[0.5, 0.25]]
    """
    check_shape("similarities", similarities, (None, None, None))
    check_floating("similarities", similarities)
    check_positive(temperature=temperature)
    return jnp.sum(jax.nn.softmax(similarities / temperature, axis=2) * similarities, axis=2)


def proxy_anchor_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 0.1,
    scale: float | jax.Array = 32.0,
) -> jax.Array:
    """Pull of each proxy on its examples and push on all others, both by log(1 + sum exp).

    The terms are scale (margin - s) over proxies with positives and scale (s + margin) over all proxies.

    Args:
      similarities: `[C, B]`, cosine of each proxy to each example, floating point: the anchors are the proxies.
      positives: `[C, B]` bool.
      negatives: `[C, B]` bool.
      margin: that the similarities should clear.
      scale: > 0.

    Returns:
      `[]`, the sum of the two means.

    Raises:
      TypeError: if the similarities are not floating point or the masks not bool.
      ValueError: if shapes do not match or the scale is not positive.

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> round(float(proxy_anchor_loss(jnp.array([[0.1, -0.1]]), positives, ~positives)), 4)  # 2 log(2)
      1.3863
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_positive(scale=scale)
    pull = log1p_sum_exp(-scale * (similarities - margin), positives)
    push = log1p_sum_exp(scale * (similarities + margin), negatives)
    used = jnp.any(positives | negatives, axis=1)
    return reduce_losses(pull, jnp.any(positives, axis=1)) + reduce_losses(push, used)


def _added_angle(cosine, angle):
    """cos(theta + angle), continued by a line in the cosine where theta + angle would pass pi."""
    inside = 1 - cosine**2 > jnp.finfo(cosine.dtype).eps
    sine = jnp.where(inside, jnp.sqrt(jnp.where(inside, 1 - cosine**2, 1)), 0)
    turned = cosine * jnp.cos(angle) - sine * jnp.sin(angle)
    return jnp.where(cosine >= -jnp.cos(angle), turned, cosine - angle * jnp.sin(angle))


def _multiple_angle(cosine, multiple):
    """cos(multiple theta), reflected so that it falls all the way from 1 to 1 - 2 multiple."""
    previous, current = jnp.ones_like(cosine), cosine
    for _ in range(multiple - 1):
        previous, current = current, 2 * cosine * current - previous
    turns = jnp.floor(multiple * jnp.arccos(jnp.clip(jax.lax.stop_gradient(cosine), -1, 1)) / jnp.pi)
    return jnp.where(turns % 2 == 0, current, -current) - 2 * turns
