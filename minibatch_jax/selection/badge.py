"""Which unlabeled examples to label next: unsure ones that differ, by their gradients in the last layer (BADGE).

The gradient of an example, for the label that the model thinks likeliest, is long if the model is unsure of it. Draws
by k-means++ among these gradients are long and far from one another. The gradient in a last layer of C classes and D
inputs has C * D entries, but it is an outer product, so its distances need no more than both factors.

References:
  Ash et al., Deep batch active learning by diverse, uncertain gradient lower bounds, ICLR 2020 (arXiv 1906.03671).
  Arthur & Vassilvitskii, k-means++: the advantages of careful seeding, SODA 2007.

Method: BADGE
Paper: 1906.03671
Experiment: active_texts, speed strategies
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count, check_floating, check_shape, mask_or_all
from minibatch_jax._loops import bind
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.selection._gradient_factors import gradient_factors, squared_distances_to
from minibatch_jax.selection._seeding import spread_draws
from minibatch_jax.weights import KeyState, weight_transformation


def badge_indices(
    key: jax.Array | int, logits: jax.Array, features: jax.Array, k: int, *, where: jax.Array | None = None
) -> jax.Array:
    """Draw k examples by k-means++ among the gradients of the last layer, each for its likeliest label.

    The first is one with the longest gradient; each next one is drawn with a probability proportional to the
    squared distance to the nearest gradient drawn before. Where all distances left are 0, draws are uniform. No example
    is drawn twice. O(k N (C + D)) time, O(N (C + D)) memory: the gradients themselves are never formed.

    Args:
      key: int seed or key.
      logits: `[N, C]`, floating point.
      features: `[N, D]`, floating point, inputs of the last layer; append a 1 to each for a layer with a bias.
      k: how many to draw, 1 <= k <= N, static.
      where: `[N]` bool, which examples may be drawn; all by default.

    Returns:
      `[k]` int32, in order of the draws, distinct; N, one past the end, where no example was left. Examples whose
      softmax is NaN, or with features that are not finite or whose squared norm overflows, are never drawn.

    Raises:
      TypeError: if logits or features are not floating point, k is not a static int, `where` is not bool or the key is
        no key.
      ValueError: if shapes do not match or k is not in [1, N].

    References:
      Ash et al., ICLR 2020 (arXiv 1906.03671).

    Examples:
      >>> logits = jnp.array([[0.0, 0.0], [99.0, 0.0], [0.0, 0.0]])
      >>> features = jnp.array([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
      >>> badge_indices(0, logits, features, 3).tolist()
      [0, 2, 1]
    """
    check_shape("logits", logits, (None, None))
    check_floating("logits", logits)
    size = logits.shape[0]
    check_shape("features", features, (size, None))
    check_floating("features", features)
    check_count("k", k, size, "the number of examples")
    key = as_key(key)
    factors, free = gradient_factors(logits, features, mask_or_all("where", where, (size,)))
    longest = factors.squares == jnp.max(jnp.where(free, factors.squares, -1))
    first = longest.astype(factors.squares.dtype)
    return spread_draws(key, bind(squared_distances_to, factors), first, free, k)


def keep_by_badge(k: int, key: jax.Array | int) -> optax.GradientTransformationExtraArgs:
    """Keep k examples that are unsure and differ, weights unchanged (BADGE). Signals: `logits` and `features`.

    Over the weights `[N]` of a pool, with 0 for what has a label, these are the next examples to label. The features
    are the inputs of the last layer. If fewer than k examples have a weight, all of them are kept. Examples whose
    softmax is NaN, or with features that are not finite or whose squared norm overflows, are never kept.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      key: typed PRNG key or int seed.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if k is not a static int, the key is no key or, in `update`, a signal is not floating point.
      ValueError: if k < 1 or, in `update`, k > N or the shapes of the signals do not match.

    References:
      Ash et al., ICLR 2020 (arXiv 1906.03671).

    Examples:
      >>> tx = keep_by_badge(1, key=0)
      >>> logits, features = jnp.zeros((3, 2)), jnp.array([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), logits=logits, features=features)[0].tolist()
      [1.0, 0.0, 0.0]
    """
    check_count("k", k)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, logits, features, **extra_args):
        check_shape("logits", logits, (*weights.shape, None))
        next_key, draw_key = jax.random.split(state.rng_key)
        drawn = badge_indices(draw_key, logits, features, k, where=weights != 0)
        return keep_rows(weights, drawn), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)
