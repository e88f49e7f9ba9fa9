"""Losses of pairs with a geometry of their own: angles of triangles, right angles.

Method: losses of angles: angular, orthogonal pairs (single-sample batches), orthogonal projection
Paper: 1708.01682, 2402.07440, 2103.14021
Experiment: single_sample_batches, single_sample_texts, speed mining_table
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_number, check_shape
from minibatch_jax._loops import bind, cond, map_rows
from minibatch_jax._row_blocks import map_row_blocks
from minibatch_jax.geometry import product
from minibatch_jax.mining._pairs import check_one_set, finite_pairs, keeps_dtype
from minibatch_jax.mining._row_losses import reduce_row_blocks
from minibatch_jax.mining.losses._exponentials import log_sum_exp, softplus_where
from minibatch_jax.mining.reductions import reduce_losses


@keeps_dtype
def angular_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    reference_similarities: jax.Array | None = None,
    angle: float | jax.Array = 0.698,
    reduction: str = "mean",
) -> jax.Array:
    """Return the angular loss: bound the angle at the negative of each triangle of anchor, positive and negative.

    A positive pair loses log(1 + sum_n exp(4 t (s_an + s_pn) - 2 (1 + t) s_ap)), where t is the squared tangent of the
    angle. The sum over negatives is a matrix product, so no array `[A, P, N]` is formed. Without a negative the loss is
    0.

    Args:
      similarities: `[A, M]`, floating point, cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      reference_similarities: `[M, M]`, floating point, cosine between the references. By default the references are the
        anchors, and it is `similarities`. If a pair on the diagonal is in a mask, the references are another view, and
        it must be given: without it the loss raises, or under `jit` is NaN.
      angle: in (0, 1.57], upper bound of the angle at the negative, in radians.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of positive pairs,
        defined at `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, the similarities are not square or those of another view and
        `reference_similarities` is not given, the angle is out of range, or the reduction is unknown.

    References:
      Wang et al., Deep metric learning with angular loss, 2017 (arXiv 1708.01682).

    Examples:
      >>> positives = jnp.array([[False, True, False], [True, False, False], [False, False, False]])
      >>> negatives = ~positives & ~jnp.eye(3, dtype=bool)
      >>> round(float(angular_loss(jnp.eye(3), positives, negatives)), 4)  # log(2)
      0.6931
    """
    pairs = similarities, positives, negatives
    _, positives, negatives = finite_pairs("similarities", *pairs)
    check_number("angle", angle, 0, 1.57, open_low=True)
    others = similarities if reference_similarities is None else reference_similarities
    check_shape("reference_similarities", others, (similarities.shape[1], similarities.shape[1]))
    views = jnp.zeros((), bool)
    if reference_similarities is None:
        views = check_one_set("reference_similarities", positives, negatives)
    tangent = jnp.tan(angle) ** 2
    compared = jnp.any(positives, axis=0)[:, None] & jnp.any(negatives, axis=0)[None, :] & jnp.isfinite(others)
    contested = map_row_blocks(bind(_contested, compared), (positives, negatives))
    of_rows = bind(_angular, views, tangent, others, compared)
    return reduce_row_blocks(of_rows, (*pairs, contested), reduction)


@keeps_dtype
def orthogonal_pair_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    power: int = 2,
    reduction: str = "mean",
) -> jax.Array:
    """Return a loss that turns positives parallel and negatives orthogonal, not opposite.

    A positive loses |1 - s|^power and a negative |s|^power. The loss is a sum over pairs, so batches of one pair with
    gradient accumulation train what one large batch would.

    Args:
      similarities: `[A, M]`, floating point, cosine; `[A, 1]` for single pairs of query and document. A pair whose
        similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      power: static, 1 or 2.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of all pairs, both
        kinds together, defined at `reduce_losses`.

    Returns:
      `[]`; `[A]` for "anchors"; `[A, M]` for "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point or the masks not bool.
      ValueError: if shapes do not match, the power is neither 1 nor 2, or the reduction is unknown.

    References:
      Saad-Falcon et al., Benchmarking and building long-context retrieval models with LoCo and M2-BERT, 2024 (arXiv
        2402.07440).

    Examples:
      >>> positives = jnp.array([[True], [False]])
      >>> float(orthogonal_pair_loss(jnp.array([[0.5], [-0.5]]), positives, ~positives))
      0.25
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    if power not in (1, 2):
        raise ValueError(f"power is {power!r}, wanted 1 or 2.")
    used = positives | negatives
    similarities = jnp.where(used, similarities, 0)
    gap = jnp.abs(jnp.where(positives, 1 - similarities, similarities))
    return reduce_losses(gap if power == 1 else gap**2, used, reduction)


@keeps_dtype
def orthogonal_projection_loss(
    similarities: jax.Array, positives: jax.Array, negatives: jax.Array, *, gamma: float | jax.Array = 0.5
) -> jax.Array:
    """Return 1 minus the mean similarity of positives plus gamma times the mean absolute similarity of negatives.

    Args:
      similarities: `[A, M]`, floating point, cosine; a pair whose similarity is not finite is ignored.
      positives: `[A, M]` bool, the pairs to pull together.
      negatives: `[A, M]` bool, the pairs to push apart.
      gamma: >= 0, weight of the negatives; differentiable.

    Returns:
      `[]`, at least 0; a kind without pairs adds 0, in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match or gamma is negative.

    References:
      Ranasinghe et al., Orthogonal projection loss, 2021 (arXiv 2103.14021).

    Examples:
      >>> positives = jnp.array([[True, False]])
      >>> float(orthogonal_projection_loss(jnp.array([[0.75, -0.5]]), positives, ~positives))
      0.5
    """
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    check_number("gamma", gamma, 0)
    return reduce_losses(1 - similarities, positives) + gamma * reduce_losses(jnp.abs(similarities), negatives)


def _contested(compared, positives, negatives):
    """Return the positive pairs `[A, M]` for which some negative is compared with both ends."""
    number = product(negatives.astype(jnp.float32), compared.T.astype(jnp.float32))
    return positives & (number > 0)


def _angular(views, tangent, others, compared, similarities, positives, negatives, contested):
    similarities, positives, negatives = finite_pairs("similarities", similarities, positives, negatives)
    of_references = bind(_over_negatives, 4 * tangent * similarities, negatives, 4 * tangent)
    exponent = map_row_blocks(of_references, (others, compared, contested.T)).T
    exponent -= 2 * (1 + tangent) * jnp.where(contested, similarities, 0)
    return [(jnp.where(views, jnp.nan, softplus_where(contested, exponent)), positives)]


def _over_negatives(to_anchor, negatives, scale, others, compared, contested):
    """Return log(sum_n exp(4 t (s_an + s_pn))) for the contested pairs of references p and anchors a, `[P, A]`."""
    to_reference = scale * jnp.where(compared, others, 0).astype(to_anchor.dtype)
    return _log_product(to_anchor, negatives, to_reference, compared, contested.T).T


def _log_product(x, x_mask, y, y_mask, wanted):
    """Return log(sum_n exp(x_an + y_pn)) over n in both masks at the wanted (a, p); 0 elsewhere.

    The sum is a matrix product of exponentials, each row shifted by its maximum. Where that leaves the range of floats,
    as at an angle near pi / 2, the anchors are handled one at a time: slower, in O(M^2) memory.
    """
    (x_exp, x_top), (y_exp, y_top) = _shifted_exp(x, x_mask), _shifted_exp(y, y_mask)
    total = product(x_exp, y_exp.T)
    in_range = total > 1e-25
    by_rows = bind(map_rows, bind(_log_product_of_row, y, y_mask), (x, x_mask))
    by_product = bind(_log_in_range, total, in_range, x_top, y_top)
    return jnp.where(wanted, cond(jnp.any(wanted & ~in_range), by_rows, by_product), 0)


@jax.checkpoint
def _log_product_of_row(y, y_mask, row):
    values, mask = row
    return log_sum_exp(values[None] + y, mask[None] & y_mask)


def _log_in_range(total, in_range, x_top, y_top):
    return jnp.log(jnp.where(in_range, total, 1)) + x_top + y_top.T


def _shifted_exp(values, mask):
    """Return exp(value - top) of the masked entries of each row, 0 elsewhere, and the top `[rows, 1]`."""
    top = jnp.max(jax.lax.stop_gradient(values), axis=1, keepdims=True, where=mask, initial=-jnp.inf)
    top = jnp.where(jnp.isfinite(top), top, 0)
    return jnp.where(mask, jnp.exp(jnp.where(mask, values - top, 0)), 0), top
