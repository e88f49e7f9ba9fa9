"""Keep the k highest or lowest scores: online hard example mining, trimmed losses.

References:
  Shrivastava et al., Training region-based object detectors with online hard example mining, 2016 (arXiv 1604.03540).

Method: top-k losses (OHEM), trimmed loss
Paper: 1604.03540
Experiment: label_noise, clean_text_filter
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count, check_floating, check_shape, mask_or_all
from minibatch_jax._loops import bind, cond
from minibatch_jax._vector import one_zero
from minibatch_jax.weights import weight_transformation


def topk_mask(
    scores: jax.Array, k: int, *, where: jax.Array | None = None, key: jax.Array | int | None = None
) -> jax.Array:
    """Return the mask of the k highest scores; non-finite scores are never kept.

    Args:
      scores: `[B]`, floating point.
      k: how many to keep, 1 <= k <= B, static.
      where: `[B]` bool, which items may be kept; all by default.
      key: int seed or key that breaks ties at random. By default they go to the lowest index, which prefers the first
        rows of a file if many scores are equal, as those of saturated probabilities are.

    Returns:
      `[B]` bool, at most k True (fewer if fewer scores are finite and allowed).

    Raises:
      TypeError: if the scores are not floating point, k is not a static int or the key is no key.
      ValueError: if shapes do not match or k is not in [1, B].

    Examples:
      >>> topk_mask(jnp.array([1.0, 3.0, jnp.nan, 2.0]), 2).tolist()
      [False, True, False, True]
    """
    check_shape("scores", scores, (None,))
    check_floating("scores", scores)
    check_count("k", k, scores.shape[0], "the number of scores")
    allowed = jnp.isfinite(scores)
    allowed &= mask_or_all("where", where, scores.shape)
    ranked = jnp.where(allowed, one_zero(scores), -jnp.inf)
    if key is None:
        _, indices = jax.lax.top_k(ranked, k)
        return jnp.zeros(scores.shape, bool).at[indices].set(True) & allowed
    last = jnp.min(jax.lax.top_k(ranked, k)[0])  # on a CPU, XLA sorts all if only one of them is read
    above, equal = ranked > last, ranked == last
    left = k - jnp.sum(above, dtype=jnp.int32)
    enough = left == jnp.sum(equal, dtype=jnp.int32)
    return allowed & (above | cond(enough, _all_of, bind(_some_of, k=k), as_key(key), equal, left))


def keep_topk(k: int) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples with the highest losses, weights unchanged; the others get 0. Signal: `losses` [B].

    Ties go to the lowest index. Padding and examples with a non-finite loss are never kept. Chain with `normalize()`
    for the mean loss over the kept examples.

    Args:
      k: how many to keep, 1 <= k <= B, static.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if k is not a static int or, in `update`, the losses are not floating point.
      ValueError: if k < 1 or, in `update`, k > B or the losses are not `[B]`.

    References:
      Shrivastava et al., 2016 (arXiv 1604.03540).

    Examples:
      >>> tx = keep_topk(1)
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), losses=jnp.array([1.0, 3.0, 2.0]))[0].tolist()
      [0.0, 1.0, 0.0]
    """
    return _keep_topk(k, sign=1)


def keep_bottomk(k: int) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples with the lowest losses: the trimmed loss, robust to wrong labels. Signal: `losses` [B].

    The kept weights are unchanged, the others become 0. Ties go to the lowest index. Padding and examples with a
    non-finite loss are never kept. Chain with `normalize()` for the mean loss over the kept examples.

    Args:
      k: how many to keep, 1 <= k <= B, static.

    Returns:
      A transformation over `[B]` weights.

    Raises:
      TypeError: if k is not a static int or, in `update`, the losses are not floating point.
      ValueError: if k < 1 or, in `update`, k > B or the losses are not `[B]`.

    Examples:
      >>> tx = keep_bottomk(1)
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), losses=jnp.array([1.0, 3.0, 2.0]))[0].tolist()
      [1.0, 0.0, 0.0]
    """
    return _keep_topk(k, sign=-1)


def _all_of(key, mask, number):
    return mask


def _some_of(key, mask, number, *, k):
    """Return a mask of so many, at most k, of the items of a mask, drawn at random."""
    luck = jax.random.uniform(key, mask.shape)
    _, indices = jax.lax.top_k(jnp.where(mask, luck, -1), k)
    indices = jnp.where(jnp.arange(k, dtype=jnp.int32) < number, indices, mask.shape[0])
    return jnp.zeros(mask.shape, bool).at[indices].set(True, mode="drop")


def _keep_topk(k: int, sign: int) -> optax.GradientTransformationExtraArgs:
    check_count("k", k)

    def update(weights, state, params=None, *, losses, **extra_args):
        check_shape("losses", losses, weights.shape)
        check_floating("losses", losses)
        return jnp.where(topk_mask(sign * losses, k, where=weights != 0), weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)
