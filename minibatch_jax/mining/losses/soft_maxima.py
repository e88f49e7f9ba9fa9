"""Losses of pairs that weigh them by exponentials: lifted structure, circle, tuplet margin.

Method: losses of soft maxima: circle, lifted structure, tuplet margin
Paper: 2002.10857, 1511.06452, 1703.07737
Experiment: speed mining_table, zero_shot_retrieval
"""

import jax
import jax.numpy as jnp

from minibatch_jax._loops import bind
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax.mining._pairs import check_positive, finite_pairs, keeps_dtype
from minibatch_jax.mining._row_losses import reduce_row_blocks
from minibatch_jax.mining.losses._exponentials import log_sum_exp, softplus_where
from minibatch_jax.mining.reductions import reduce_losses


@keeps_dtype
def lifted_structure_loss(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 1.0,
    reduction: str = "mean",
) -> jax.Array:
    """Return the lifted structure loss: each positive pair against the negatives of both its ends.

    A positive pair (a, p) loses [d_ap + log sum exp(margin - d)]_+^2 / 2, where the sum is over the distances d from a
    and from p to their negatives. Without a negative the loss is 0. The negatives of p are those of its row. A pair on
    the diagonal that is in a mask says that the references are another view of the anchors: then the negatives of p are
    those of its column, and the loss is that of both views in one `[2 B, 2 B]` without the pairs within a view.

    Args:
      distances: `[B, B]`, floating point: the references are the anchors, or another view of them. A pair whose
        distance is not finite is ignored.
      positives: `[B, B]` bool, the pairs to pull together.
      negatives: `[B, B]` bool, the pairs to push apart.
      margin: distance beyond which the push of a negative fades; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of positive pairs,
        defined at `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the distances.

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match or the reduction is unknown.

    References:
      Song et al., Deep metric learning via lifted structured feature embedding, 2016 (arXiv 1511.06452).

    Examples:
      >>> positives = jnp.array([[False, True, False], [True, False, False], [False, False, False]])
      >>> negatives = ~positives & ~jnp.eye(3, dtype=bool)
      >>> round(float(lifted_structure_loss(jnp.ones((3, 3)), positives, negatives)), 4)  # (1 + log(2))^2 / 2
      1.4334
    """
    pairs = distances, positives, negatives
    distances, positives, negatives = finite_pairs("distances", *pairs)
    from_references, of_references = distances.T, negatives.T
    if distances.shape[0] == distances.shape[1]:
        views = jnp.any(jnp.diagonal(positives | negatives))  # no item is in a pair with itself
        from_references = jnp.where(views, from_references, distances)
        of_references = jnp.where(views, of_references, negatives)
    rest = map_row_blocks(bind(_log_of_negatives, margin), (from_references, of_references))
    of_rows = bind(_lifted_structure, margin, rest)
    return reduce_row_blocks(of_rows, pairs, reduction)


def _log_of_negatives(margin, distances, negatives):
    """Return log sum exp(margin - d) over the negatives of each row, or the lowest number if there is none."""
    lowest = jnp.finfo(distances.dtype).min / 4
    return jnp.where(jnp.any(negatives, axis=1), log_sum_exp(margin - distances, negatives), lowest)


def _lifted_structure(margin, rest_of_references, *pairs):
    distances, positives, negatives = finite_pairs("distances", *pairs)
    rest, of_references = _log_of_negatives(margin, distances, negatives)[:, None], rest_of_references[None, :]
    highest = jnp.maximum(rest, of_references)
    contested = positives & (highest > jnp.finfo(distances.dtype).min / 4)
    gap = jnp.where(contested, jnp.minimum(rest, of_references) - highest, 0)
    both = jnp.where(contested, highest, 0) + jnp.log1p(jnp.exp(gap))
    return [(jnp.where(contested, jax.nn.relu(both + jnp.where(contested, distances, 0)) ** 2 / 2, 0), positives)]


@keeps_dtype
def generalized_lifted_structure_loss(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 1.0,
    reduction: str = "mean",
) -> jax.Array:
    """Return the generalized lifted structure loss: all positives of an anchor against all its negatives.

    An anchor with both kinds of pairs loses [log sum_p exp(d_p) + log sum_n exp(margin - d_n)]_+.

    Args:
      distances: `[A, M]`, floating point; a pair whose distance is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      margin: by how much the nearest negatives should be farther than the farthest positives, roughly; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with both
        kinds of pairs, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the distances.

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match or the reduction is unknown.

    References:
      Hermans et al., In defense of the triplet loss for person re-identification, 2017 (arXiv 1703.07737).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> float(generalized_lifted_structure_loss(jnp.array([[0.5, 0.75]]), positives, ~positives))
      0.75
    """
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    total = log_sum_exp(distances, positives) + log_sum_exp(margin - distances, negatives)
    return reduce_losses(jax.nn.relu(total), _has_both(positives, negatives), reduction)


@keeps_dtype
def circle_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 0.4,
    scale: float | jax.Array = 80.0,
    reduction: str = "active_mean",
) -> jax.Array:
    """Return the circle loss: pairs far from their optimum are pulled or pushed harder.

    An anchor with both kinds of pairs loses
    softplus(LSE_p(-scale a_p (s_p - 1 + margin)) + LSE_n(scale a_n (s_n - margin))), where LSE is the log of the sum of
    exp. The paces a_p = [1 + margin - s_p]_+ and a_n = [s_n + margin]_+ are constants for the gradient.

    Args:
      similarities: `[A, M]`, floating point, cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      margin: relaxation of the decision boundary; differentiable.
      scale: > 0, of the exponents; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with both
        kinds of pairs, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, the scale is not positive, or the reduction is unknown.

    References:
      Sun et al., Circle loss: a unified perspective of pair similarity optimization, 2020 (arXiv 2002.10857).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> round(float(circle_loss(jnp.array([[0.6, 0.4]]), positives, ~positives)), 4)  # log(2)
      0.6931
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_positive(scale=scale)
    return reduce_row_blocks(bind(_circle, margin, scale), (similarities, positives, negatives), reduction)


def _circle(margin, scale, similarities, positives, negatives):
    similarities = jnp.where(positives | negatives, similarities, 0)
    fixed = jax.lax.stop_gradient(similarities)
    pull = -scale * jax.nn.relu(1 + margin - fixed) * (similarities - 1 + margin)
    push = scale * jax.nn.relu(fixed + margin) * (similarities - margin)
    total = log_sum_exp(pull, positives) + log_sum_exp(push, negatives)
    return [(jax.nn.softplus(total), _has_both(positives, negatives))]


@keeps_dtype
def tuplet_margin_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    margin: float | jax.Array = 0.1,
    scale: float | jax.Array = 64.0,
    reduction: str = "mean",
) -> jax.Array:
    """Return the tuplet margin loss: each positive pair against all negatives of its anchor, with slack in the angle.

    A positive pair at the angle theta loses log(1 + sum_n exp(scale (s_n - cos(theta - margin)))). Without a negative
    the loss is 0.

    Args:
      similarities: `[A, M]`, floating point, cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      margin: slack of the angle between a positive pair, in radians; differentiable.
      scale: > 0, of the exponents; differentiable.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of positive pairs,
        defined at `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, the scale is not positive, or the reduction is unknown.

    References:
      Yu and Tao, Deep metric learning with tuplet margin loss, ICCV 2019.

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> round(float(tuplet_margin_loss(jnp.array([[0.6, 0.6]]), positives, ~positives, margin=0.0)), 4)  # log(2)
      0.6931
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_positive(scale=scale)
    contested = positives & jnp.any(negatives, axis=1, keepdims=True)
    cosine = jnp.where(contested, similarities, 0)
    inside = 1 - cosine**2 > jnp.finfo(cosine.dtype).eps
    sine = jnp.where(inside, jnp.sqrt(jnp.where(inside, 1 - cosine**2, 1)), 0)
    relaxed = scale * (cosine * jnp.cos(margin) + sine * jnp.sin(margin))
    excess = log_sum_exp(scale * similarities, negatives)[:, None] - relaxed
    return reduce_losses(softplus_where(contested, excess), positives, reduction)


def _has_both(positives, negatives):
    return jnp.any(positives, axis=1) & jnp.any(negatives, axis=1)
