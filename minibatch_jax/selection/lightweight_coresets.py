"""A weighted sample that stands for a data set: draws by the squared distance to the mean (light-weight core-set).

Half of each probability is the same for all examples, and half goes with the squared distance to the mean. With the
weights of "unbiased", the k-means cost of any set of centers is that of all examples in expectation. It takes two
passes over the data, and no distance between examples.

References:
  Bachem, Lucic & Krause, Scalable k-means clustering via lightweight coresets, KDD 2018 (arXiv 1702.08248).

Method: light-weight core-set
Paper: 1702.08248
Experiment: active_texts, speed strategies
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import measurable_rows, product
from minibatch_jax.selection.importance_sampling import importance_counts
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import KeyState, weight_transformation


def lightweight_probabilities(features: jax.Array, *, item_weights: jax.Array | None = None) -> jax.Array:
    """Return with which probability a draw of a light-weight core-set takes each example.

    It is half the share of the example in all weights, and half its share in the weighted squared distances to the
    weighted mean. If all examples are equal, it is the share in the weights.

    Args:
      features: `[N, D]`, floating point; a row that is not finite, or whose squared norm overflows, gets 0.
      item_weights: `[N]`, floating point, what each example counts, at least 0; 1 by default. One that is not finite or
        negative counts as 0.

    Returns:
      `[N]`, float32 (float64 if the features are), that sum to 1; zeros if no example counts.

    Raises:
      TypeError: if features or weights are not floating point.
      ValueError: if shapes do not match.

    References:
      Bachem, Lucic & Krause, KDD 2018 (arXiv 1702.08248).

    Examples:
      >>> lightweight_probabilities(jnp.array([[0.0], [1.0], [2.0], [1.0]])).tolist()
      [0.375, 0.125, 0.375, 0.125]
    """
    check_shape("features", features, (None, None))
    check_floating("features", features)
    rows, measurable = measurable_rows(features)
    if item_weights is None:
        item_weights = jnp.ones(rows.shape[0], rows.dtype)
    check_shape("item_weights", item_weights, rows.shape[:1])
    check_floating("item_weights", item_weights)
    counts = measurable & jnp.isfinite(item_weights) & (item_weights > 0)
    shares = jnp.where(counts, item_weights, 0).astype(rows.dtype)
    shares = shares / nonzero(jnp.sum(shares))
    mean = product(shares, rows)
    scattered = shares * jnp.sum((rows - mean[None]) ** 2, axis=1)
    scatter = jnp.sum(scattered)
    return jnp.where(scatter > 0, (shares + scattered / nonzero(scatter)) / 2, shares)


def keep_lightweight_coreset(
    k: int, key: jax.Array | int, *, weighting: str = "unbiased"
) -> optax.GradientTransformationExtraArgs:
    """Keep k examples drawn by `lightweight_probabilities` of the incoming weights. Signal: `features` [N, D].

    Examples with a feature that is not finite, or with a squared norm that overflows, are never kept. Where all rows
    are about as far from the mean, as many embeddings of length 1 are, this hardly differs from a random draw.

    Args:
      k: number of draws, 1 <= k <= N, static.
      key: typed PRNG key or int seed.
      weighting: "unbiased" draws with replacement: an example drawn c times weighs `c * weight / (k * probability)`,
        which is at most 2 c / k times the sum of all weights. Do not normalize afterwards. The draws are those of
        `importance_counts`, rounded from 10^5 examples on; the method of that name in `pool.select_from_pool` draws in
        double precision. "own" draws without replacement and leaves the weights as they came, for the next examples to
        label; if fewer than k can be drawn, all of them are kept.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if k is not a static int, the key is no key or, in `update`, the features are not floating point.
      ValueError: if the weighting is unknown, k < 1 or, in `update`, k > N or the features are not `[N, D]`.

    References:
      Bachem, Lucic & Krause, KDD 2018 (arXiv 1702.08248).

    Examples:
      >>> tx = keep_lightweight_coreset(2, key=0, weighting="own")
      >>> features = jnp.array([[0.0], [jnp.nan], [2.0]])
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), features=features)[0].tolist()
      [1.0, 0.0, 1.0]
    """
    check_count("k", k)
    check_choice("weighting", weighting, ("own", "unbiased"))
    rng_key = as_key(key)

    def update(weights, state, params=None, *, features, **extra_args):
        check_shape("features", features, (*weights.shape, None))
        check_count("k", k, weights.shape[0], "the number of examples")
        next_key, draw_key = jax.random.split(state.rng_key)
        probabilities = lightweight_probabilities(features, item_weights=weights).astype(weights.dtype)
        if weighting == "own":
            scores = jnp.log(probabilities) + jax.random.gumbel(draw_key, weights.shape, weights.dtype)
            return jnp.where(topk_mask(scores, k), weights, 0), KeyState(next_key)
        counts = importance_counts(draw_key, probabilities, k).astype(weights.dtype)
        return jnp.where(counts > 0, counts * weights / (k * nonzero(probabilities)), 0), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)
