"""Triplet mining as weights of pairs `[A, M]`, so that miners, padding and other pair weights compose.

The weight of a pair that comes out is how often it is in an active triplet, divided by the number of active triplets,
times the weight that went in. From weights of one, `value_and_grad(..., items="distances")` has exactly the gradient of
`triplet_loss`. A pair that enters with weight 0 is in no triplet: padding needs zero rows and columns.

Method: semi-hard triplets
Paper: 1503.03832
Experiment: triplet_mining
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_number
from minibatch_jax._loops import bind
from minibatch_jax.mining._columns import FALLBACKS, check_kinds
from minibatch_jax.mining._pairs import finite_pairs
from minibatch_jax.mining.choices import triplet_choice
from minibatch_jax.mining.losses._triplet_sums import hinge, sum_selected, sum_triplets
from minibatch_jax.mining.losses.triplets import triplet_pair_weights
from minibatch_jax.mining.miners._lifts import mine_by_weights


def mine_all(margin: float = 0.2) -> optax.GradientTransformationExtraArgs:
    """Weigh pairs by all active triplets, d_ap - d_an + margin > 0. Weights `[A, M]`; signals `distances`, `labels`.

    Args:
      margin: float, a triplet is active if d_ap - d_an + margin > 0; infinite to let every triplet count.

    Returns:
      A transformation of weights `[A, M]` without a state. It multiplies the weight of each pair by its share of the
      active triplets.

    Raises:
      TypeError: if the margin is not a number, or, in `update`, a dtype is wrong.
      ValueError: if the margin is NaN or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_all()
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.5, 0.6], [0.5, 0.0, 0.9], [0.6, 0.9, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return _mine("all", margin, "drop")


def mine_hard(margin: float = 0.2) -> optax.GradientTransformationExtraArgs:
    """Weigh the farthest positive and nearest negative of each anchor. Weights `[A, M]`; signals `distances`, `labels`.

    With an infinite margin the triplet of every anchor is active. A network that maps everything to one point is
    stuck with a loss equal to the margin: to avoid it, start from `mine_semihard` or `mine_easy_hard`.

    Args:
      margin: float, a triplet is active if d_ap - d_an + margin > 0; infinite to let every triplet count.

    Returns:
      A transformation of weights `[A, M]` without a state. It multiplies the weight of each pair by its share of the
      active triplets.

    Raises:
      TypeError: if the margin is not a number, or, in `update`, a dtype is wrong.
      ValueError: if the margin is NaN or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_hard()
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.5, 0.6], [0.5, 0.0, 0.65], [0.6, 0.65, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]]
    """
    return _mine("hard", margin, "drop")


def mine_semihard(
    margin: float = 0.2, *, nearest: bool = False, fallback: str = "drop"
) -> optax.GradientTransformationExtraArgs:
    """Weigh pairs by the triplets with d_ap < d_an < d_ap + margin. Weights `[A, M]`; signals `distances`, `labels`.

    Args:
      margin: float, width of the band.
      nearest: bool, whether to take only the nearest negative beyond each positive, as FaceNet and TensorFlow do.
      fallback: for a positive that no negative is farther than: "drop" it, or pair it with the "easiest" (farthest) or
        "hardest" (nearest) negative.

    Returns:
      A transformation of weights `[A, M]` without a state. It multiplies the weight of each pair by its share of the
      active triplets.

    Raises:
      TypeError: if the margin is not a number, or, in `update`, a dtype is wrong.
      ValueError: if the margin is NaN, the fallback is unknown or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_semihard()
      >>> weights, labels = jnp.ones((4, 4)), jnp.array([0, 0, 1, 2])
      >>> distances = jnp.where(jnp.eye(4) > 0, 0.0, 0.5).at[0].set(jnp.array([0.0, 0.5, 0.4, 0.6]))
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0][0].tolist()
      [0.0, 1.0, 0.0, 1.0]
    """
    return _mine("nearest_semihard" if nearest else "semihard", margin, fallback)


def mine_violating() -> optax.GradientTransformationExtraArgs:
    """Weigh pairs by all triplets with d_an <= d_ap. Weights `[A, M]`; signals `distances`, `labels`.

    These are the "hard" triplets of pytorch-metric-learning.

    Returns:
      A transformation of weights `[A, M]` without a state. It multiplies the weight of each pair by its share of these
      triplets.

    Raises:
      TypeError: in `update`, if a dtype is wrong.
      ValueError: in `update`, if the shapes do not match.

    Examples:
      >>> tx = mine_violating()
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.5, 0.4], [0.5, 0.0, 0.9], [0.4, 0.9, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    return _mine_all_of("violating", 0.0)


def mine_easy(margin: float = 0.2) -> optax.GradientTransformationExtraArgs:
    """Weigh pairs by all triplets with d_an > d_ap + margin. Weights `[A, M]`; signals `distances`, `labels`.

    A triplet loss with a hinge loses nothing on them: use them with other losses, or to watch what is learned.

    Args:
      margin: float, how much farther than the positive the negative is.

    Returns:
      A transformation of weights `[A, M]` without a state. It multiplies the weight of each pair by its share of these
      triplets.

    Raises:
      TypeError: if the margin is not a number, or, in `update`, a dtype is wrong.
      ValueError: if the margin is NaN or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_easy()
      >>> weights, labels = jnp.ones((3, 3)), jnp.array([0, 0, 1])
      >>> distances = jnp.array([[0.0, 0.5, 0.6], [0.5, 0.0, 0.9], [0.6, 0.9, 0.0]])
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0].tolist()
      [[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    check_number("margin", margin)
    return _mine_all_of("easy", margin)


def mine_easy_hard(
    positive: str = "easy", negative: str = "semihard", *, margin: float = 0.2, fallback: str = "drop"
) -> optax.GradientTransformationExtraArgs:
    """Weigh the triplet of each anchor that `triplet_choice` chooses. Weights `[A, M]`; signals `distances`, `labels`.

    The default is easy-positive mining: the nearest positive and the nearest negative that is farther.

    Args:
      positive: "hard" (farthest), "easy" (nearest) or "semihard" (farthest of those nearer than the negative).
      negative: "hard" (nearest), "easy" (farthest) or "semihard" (nearest of those farther than the positive); not both
        are semi-hard.
      margin: float, a triplet is active if d_ap - d_an + margin > 0; infinite to let every triplet count.
      fallback: where nothing is semi-hard: "drop" the anchor, or take the "easiest" or "hardest".

    Returns:
      A transformation of weights `[A, M]` without a state. It multiplies the weight of each pair by its share of the
      active triplets.

    Raises:
      TypeError: if the margin is not a number, or, in `update`, a dtype is wrong.
      ValueError: if the margin is NaN, a choice is unknown or, in `update`, the shapes do not match.

    Examples:
      >>> tx = mine_easy_hard("semihard", "hard", margin=jnp.inf)
      >>> weights, labels = jnp.ones((4, 4)), jnp.array([0, 0, 0, 1])
      >>> distances = jnp.where(jnp.eye(4) > 0, 0.0, 0.9).at[0].set(jnp.array([0.0, 0.5, 0.3, 0.4]))
      >>> tx.update(weights, tx.init(weights), distances=distances, labels=labels)[0][0].tolist()
      [0.0, 0.0, 1.0, 1.0]
    """
    check_number("margin", margin)
    check_kinds(positive, negative, fallback)

    def factors(distances, positives, negatives):
        triplets = triplet_choice(distances, positives, negatives, positive, negative, fallback)
        sums = sum_selected(distances, triplets, hinge(margin))
        return jnp.abs(sums.weights) / jnp.maximum(jnp.sum(sums.active), 1)

    return mine_by_weights(factors)


def _mine_all_of(mining: str, margin: float) -> optax.GradientTransformationExtraArgs:
    """Weigh pairs by the mined triplets, whatever a hinge says of them."""

    def factors(distances, positives, negatives):
        distances, positives, negatives = finite_pairs("distances", distances, positives, negatives)
        limit = jnp.asarray(margin, distances.dtype)
        sums = sum_triplets(distances, positives, negatives, bind(_one_each), mining, margin=limit)
        return jnp.abs(sums.weights) / jnp.maximum(jnp.sum(sums.mined), 1)

    return mine_by_weights(factors)


def _one_each(excess: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.ones_like(excess), jnp.ones_like(excess)


def _mine(mining: str, margin: float, fallback: str) -> optax.GradientTransformationExtraArgs:
    check_number("margin", margin)
    check_choice("fallback", fallback, FALLBACKS)

    def factors(*pairs):
        _, slopes = triplet_pair_weights(*pairs, margin=margin, mining=mining, fallback=fallback)
        return jnp.abs(slopes)

    return mine_by_weights(factors)
