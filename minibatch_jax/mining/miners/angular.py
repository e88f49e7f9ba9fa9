"""Triplets whose negative sees anchor and positive under a wide angle.

References:
  Wang et al., Deep metric learning with angular loss, 2017 (arXiv 1708.01682).

Method: angular triplets
Paper: 1708.01682
Experiment: pairs_that_count
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_floating, check_number, check_shape
from minibatch_jax._loops import bind
from minibatch_jax.mining._pairs import check_one_set, finite_pairs
from minibatch_jax.mining.losses._triplet_sums import hinge, sum_triplets
from minibatch_jax.mining.miners._lifts import pairs_of_weights, scaled
from minibatch_jax.weights import weight_transformation


def angular_triplet_weights(
    distances: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    reference_distances: jax.Array | None = None,
    angle: float | jax.Array = 0.349,
    margin: float | jax.Array = 0.2,
) -> jax.Array:
    """Return how often each pair is in an active triplet of a wide angle, divided by the number of such triplets.

    The angle of a triplet is atan(d_ap / (2 d_nc)), c the midpoint of anchor and positive. The distance to the midpoint
    follows from the three sides, so no embeddings are needed.

    Args:
      distances: `[A, M]`, Euclidean, floating point; pairs of non-finite distance take part in no triplet.
      positives: `[A, M]` bool.
      negatives: `[A, M]` bool.
      reference_distances: `[M, M]`, Euclidean, between the references; the distances by default, if the references are
        the anchors.
      angle: in radians, at least 0 and below pi / 2; triplets of larger angle count.
      margin: a triplet is active if d_ap - d_an + margin > 0; infinite to let every triplet count.

    Returns:
      `[A, M]`, at least 0, float32 (float64 if the distances are).

    Raises:
      TypeError: if the distances are not floating point or the masks not bool.
      ValueError: if shapes do not match, a number is out of range, or a pair on the diagonal is in a mask and the
        reference distances are not given: then the references are another view. Under `jit` the result is NaN instead.

    Examples:
      >>> distances = jnp.array([[0.0, 1, 1, 3], [1, 0.0, 1, 3], [1, 1, 0.0, 3], [3, 3, 3, 0.0]])
      >>> positives = jnp.zeros((4, 4), bool).at[0, 1].set(True)
      >>> negatives = jnp.zeros((4, 4), bool).at[0, 2:].set(True)
      >>> angular_triplet_weights(distances, positives, negatives)[0].tolist()  # 30 degrees and 10 degrees
      [0.0, 1.0, 1.0, 0.0]
    """
    check_number("angle", angle, 0, 1.57)
    check_number("margin", margin)
    others = distances if reference_distances is None else reference_distances
    distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
    views = jnp.zeros((), bool)
    if reference_distances is None and distances.shape[0] == distances.shape[1]:
        views = check_one_set("reference_distances", positives, negatives)
    check_shape("reference_distances", others, (distances.shape[1], distances.shape[1]))
    check_floating("reference_distances", others)
    tangent = jnp.asarray(jnp.tan(angle) ** 2, distances.dtype)
    is_wide = bind(_is_wide, others, tangent)
    sums = sum_triplets(distances, positives, negatives, hinge(margin), condition=is_wide)
    return jnp.where(views, jnp.nan, jnp.abs(sums.weights) / jnp.maximum(jnp.sum(sums.active), 1))


def _is_wide(others, tangent, distances, reach, column):
    sides, other = (reach**2)[:, None], others[column]
    squared = jnp.where(jnp.isfinite(other), other, jnp.inf).astype(distances.dtype) ** 2  # inf: not wide
    return sides > tangent * (2 * distances**2 + 2 * squared - sides)  # (d_ap / 2)^2 > (tan d_nc)^2


def mine_angular(angle: float = 0.349, margin: float = 0.2) -> optax.GradientTransformationExtraArgs:
    """Weigh pairs by the active triplets of wide angle. Weights `[B, B]`; signals `distances` (Euclidean), `labels`.

    The angle needs distances between references, so the references are the anchors. For other references give theirs to
    `angular_triplet_weights`.

    Args:
      angle: float, in radians, in [0, 1.57]; triplets of larger angle count.
      margin: float, a triplet is active if d_ap - d_an + margin > 0; infinite to let every triplet count.

    Returns:
      A transformation of weights `[B, B]` without a state. It multiplies the weight of each pair by its share of the
      active triplets.

    Raises:
      TypeError: if the angle or the margin is not a number, or, in `update`, a dtype is wrong.
      ValueError: if the angle is out of range, the margin is NaN or, in `update`, the shapes do not match, the
        distances are not square, or the references are another view than the anchors: a pair on the diagonal is in a
        mask. Under `jit` all weights are 0 instead.

    Examples:
      >>> tx = mine_angular()
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 1.0, 1.1], [1.0, 0.0, 1.5], [1.1, 1.5, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    check_number("angle", angle, 0, 1.57)
    check_number("margin", margin)

    def update(weights, state, params=None, *, distances, positives, negatives, **extra_args):
        pairs = pairs_of_weights(weights, distances, positives, negatives)
        if distances.shape[0] != distances.shape[1]:
            shape = list(distances.shape)
            raise ValueError(f"distances has shape {shape}, wanted [B, B]: mine_angular needs square distances.")
        views = check_one_set("reference_distances", *pairs[1:])
        options = {"reference_distances": distances, "angle": angle, "margin": margin}
        return scaled(weights, jnp.where(views, jnp.nan, angular_triplet_weights(*pairs, **options))), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)
