"""Losses of embeddings and learned vectors, one or several for each class: the references are the classes.

With `classes = jnp.arange(C)` the masks are `positive_mask(labels, classes)` and `negative_mask(labels, classes)`.
Three losses need no function of their own: `info_nce_loss` of minus squared distances to proxies is ProxyNCA,
`info_nce_loss` of cosines at temperature 0.05 is the normalized softmax, and `orthogonal_pair_loss` of cosines is
P2SGrad.

Method: losses of class vectors: ArcFace, CosFace, SphereFace, SoftTriple, proxy anchor
Paper: 1801.07698, 1801.09414, 1704.08063, 1909.05235, 2003.13911
Experiment: speed mining_table, zero_shot_retrieval
"""

import jax
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax.mining._pairs import check_positive, finite_pairs, keeps_dtype
from minibatch_jax.mining.losses._exponentials import log1p_sum_exp
from minibatch_jax.mining.losses.contrastive import info_nce_loss
from minibatch_jax.mining.reductions import reduce_losses
from minibatch_jax.weights import weight_dtype


@keeps_dtype
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
    """Return softmax cross-entropy with a handicap for the true class: ArcFace, CosFace or SphereFace.

    The logit of the true class at the angle theta is scale * (cos(multiple * theta + angle) - cosine), that of another
    class scale * s. ArcFace is `angle=0.5`, CosFace `cosine=0.35`, SphereFace `multiple=4`. Beyond pi, where the cosine
    would rise again, it is continued so that it keeps falling with theta.

    Args:
      similarities: `[A, C]`, floating point, cosine of each embedding to each class; a pair whose similarity is not
        finite is ignored. For sub-centers pass the maximum over the centers of a class, for SoftTriple the result of
        `soften_centers`.
      positives: `[A, C]` bool, the class of each embedding.
      negatives: `[A, C]` bool, the other classes.
      angle: in [0, 3.14], added to the angle to the true class, in radians; differentiable.
      cosine: subtracted from the cosine of the true class; differentiable.
      multiple: static int, factor of the angle to the true class. Above 1, `angle` must be the number 0.
      scale: factor of the logits: a number, or for SphereFace the norms of the embeddings `[A, 1]`; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of embeddings with a
        class, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool, the angle not a number or `multiple`
        not a static int.
      ValueError: if shapes do not match, the angle is out of range, `multiple` is below 1 or above 1 with an angle
        that is not the number 0, or the reduction is unknown.

    References:
      Liu et al., SphereFace: deep hypersphere embedding for face recognition, 2017 (arXiv 1704.08063).
      Wang et al., CosFace: large margin cosine loss for deep face recognition, 2018 (arXiv 1801.09414).
      Deng et al., ArcFace: additive angular margin loss for deep face recognition, 2019 (arXiv 1801.07698).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> round(float(margin_softmax_loss(jnp.array([[0.6, 0.1]]), positives, ~positives, cosine=0.5)), 4)  # log(2)
      0.6931
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_number("angle", angle, 0, 3.14)
    check_count("multiple", multiple)
    if multiple > 1 and (isinstance(angle, jax.Array) or np.any(np.asarray(angle) != 0)):
        raise ValueError(
            f"angle is {angle} and multiple is {multiple}, wanted an added or a multiplied angle, not both: with "
            "multiple above 1, angle is the number 0, not a JAX array."
        )
    own = jnp.where(positives, similarities, 0)
    own = _added_angle(own, angle) if multiple == 1 else _multiple_angle(own, multiple)
    logits = scale * jnp.where(positives, own - cosine, similarities)
    return info_nce_loss(logits, positives, negatives, temperature=1.0, reduction=reduction)


@keeps_dtype
def soften_centers(similarities: jax.Array, *, temperature: float | jax.Array = 0.1) -> jax.Array:
    """Return the similarity to each class, from the similarities to its centers (SoftTriple).

    It is the mean over the centers of the class, weighed by the softmax of the similarities over the temperature. A
    center whose similarity is not finite does not count. Pass
    the result to `margin_softmax_loss` with `cosine=0.01, scale=20` for the SoftTriple loss.

    Args:
      similarities: `[A, C, K]`, floating point, to the K centers of each of C classes.
      temperature: > 0; towards 0 the result is the maximum.

    Returns:
      `[A, C]`, in the dtype of the similarities; NaN where no center counts.

    Raises:
      TypeError: if the similarities are not floating point or the temperature is not a number.
      ValueError: if they are not of rank 3 or the temperature is not positive.

    References:
      Qian et al., SoftTriple loss: deep metric learning without triplet sampling, 2019 (arXiv 1909.05235).

    Examples:
      >>> soften_centers(jnp.array([[[0.5, 0.5], [0.25, 0.25]]])).tolist()
      [[0.5, 0.25]]
    """
    check_shape("similarities", similarities, (None, None, None))
    check_floating("similarities", similarities)
    check_positive(temperature=temperature)
    finite = jnp.isfinite(similarities)
    clean = jnp.where(finite, similarities, 0).astype(weight_dtype(similarities.dtype))
    some = jnp.any(finite, axis=2)
    shares = jax.nn.softmax(jnp.where(finite | ~some[..., None], clean / temperature, -jnp.inf), axis=2)
    return jnp.where(some, jnp.sum(shares * clean, axis=2), jnp.nan)


@keeps_dtype
def proxy_anchor_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 0.1,
    scale: float | jax.Array = 32.0,
) -> jax.Array:
    """Return the proxy anchor loss: each proxy pulls its examples and pushes all others.

    The pull of a proxy is log(1 + sum_p exp(scale (margin - s_p))), averaged over the proxies with a positive. The push
    is log(1 + sum_n exp(scale (s_n + margin))), averaged over the proxies with a pair.

    Args:
      similarities: `[C, B]`, floating point, cosine of each proxy to each example: the anchors are the proxies. A pair
        whose similarity is not finite is ignored.
      positives: `[C, B]` bool, the examples of each proxy's class.
      negatives: `[C, B]` bool, the examples of other classes.
      margin: similarity that positives should exceed, while negatives should stay below -margin; differentiable.
      scale: > 0, of the exponents; differentiable.

    Returns:
      `[]`, the sum of the two means, in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match or the scale is not positive.

    References:
      Kim et al., Proxy anchor loss for deep metric learning, 2020 (arXiv 2003.13911).

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
    """Return cos(theta + angle), or a line in the cosine where theta + angle is beyond pi."""
    inside = 1 - cosine**2 > jnp.finfo(cosine.dtype).eps
    sine = jnp.where(inside, jnp.sqrt(jnp.where(inside, 1 - cosine**2, 1)), 0)
    turned = cosine * jnp.cos(angle) - sine * jnp.sin(angle)
    return jnp.where(cosine >= -jnp.cos(angle), turned, cosine - angle * jnp.sin(angle))


def _multiple_angle(cosine, multiple):
    """Return cos(multiple * theta), reflected at each turn so that it keeps falling, from 1 to 1 - 2 * multiple."""
    previous, current = jnp.ones_like(cosine), cosine
    for _ in range(multiple - 1):
        previous, current = current, 2 * cosine * current - previous
    turns = jnp.floor(multiple * jnp.arccos(jnp.clip(jax.lax.stop_gradient(cosine), -1, 1)) / jnp.pi)
    return jnp.where(turns % 2 == 0, current, -current) - 2 * turns
