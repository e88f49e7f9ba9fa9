"""Which unlabeled examples to label next: those predicted unlike the labeled examples near them (CAL).

An example whose features resemble those of labeled examples, while its prediction does not, is near the border between
classes. The highest scores are to be labeled first.

References:
  Margatina et al., Active learning by acquiring contrastive examples, EMNLP 2021 (arXiv 2109.03764).

Method: contrastive active learning (CAL)
Paper: 2109.03764
Experiment: active_texts, speed strategies
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count, check_floating, check_shape, mask_or_all
from minibatch_jax._loops import bind, map_rows
from minibatch_jax.geometry import finite_rows, product, unit_rows
from minibatch_jax.selection._neighbors import known_references
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation


def contrastive_scores(
    logits: jax.Array,
    features: jax.Array,
    reference_logits: jax.Array,
    reference_features: jax.Array,
    *,
    num_neighbors: int = 10,
    reference_mask: jax.Array | None = None,
    block_size: int = 256,
) -> jax.Array:
    """Return the mean divergence of each example's prediction from those of the labeled examples nearest to it.

    The mean is that of `KL(p_j || p_i)` over the neighbors j of the example i, in nats; near is a large cosine between
    features. If fewer than `num_neighbors` labeled examples exist, all of them are neighbors. Do not pass the pool as
    its own references: each example would be its own neighbor, with divergence 0. O(N M D) time, O(block_size M + N C)
    memory.

    Args:
      logits: `[N, C]`, floating point, of the pool.
      features: `[N, D]`, floating point, of the pool.
      reference_logits: `[M, C]`, floating point, of the labeled examples.
      reference_features: `[M, D]`, floating point, of the labeled examples.
      num_neighbors: how many neighbors count, at most M, static.
      reference_mask: `[M]` bool, which of the references exist; all by default. A reference whose softmax is NaN, or
        whose features are not finite, does not count.
      block_size: rows of the pool at a time.

    Returns:
      `[N]`, at least 0, float32 (float64 if an input is); NaN where the softmax of the example is NaN, a feature is not
      finite, or no reference exists; infinite where the example excludes a class that a neighbor does not.

    Raises:
      TypeError: if logits or features are not floating point, a count is not a static int or the mask is not bool.
      ValueError: if shapes do not match or a count is out of range.

    References:
      Margatina et al., EMNLP 2021 (arXiv 2109.03764).

    Examples:
      >>> logits, features = jnp.array([[3.0, 0.0], [0.0, 3.0]]), jnp.array([[1.0, 0.1], [1.0, -0.1]])
      >>> scores = contrastive_scores(logits, features, logits[:1], features[:1], num_neighbors=1)
      >>> [round(x, 3) for x in scores.tolist()]
      [0.0, 2.715]
    """
    check_shape("logits", logits, (None, None))
    check_shape("features", features, (logits.shape[0], None))
    check_shape("reference_logits", reference_logits, (None, logits.shape[1]))
    check_shape("reference_features", reference_features, (reference_logits.shape[0], features.shape[1]))
    inputs = {"logits": logits, "features": features}
    inputs |= {"reference_logits": reference_logits, "reference_features": reference_features}
    for name, value in inputs.items():
        check_floating(name, value)
    check_count("num_neighbors", num_neighbors, reference_logits.shape[0], "the number of references")
    check_count("block_size", block_size)
    dtype = weight_dtype(jnp.result_type(*inputs.values()))
    candidates, finite = _logarithms(logits, features, dtype)
    references, exists = _logarithms(reference_logits, reference_features, dtype)
    exists &= mask_or_all("reference_mask", reference_mask, reference_logits.shape[:1])
    directions = unit_rows(reference_features.astype(dtype))
    score = bind(_score, references, directions, exists, num_neighbors=num_neighbors)
    scores = map_rows(score, (candidates, unit_rows(features.astype(dtype))), block_size=block_size)
    return jnp.where(finite, scores, jnp.nan)


def keep_by_contrast(k: int, key: jax.Array | int, *, num_neighbors: int = 10) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples predicted most unlike the labeled examples near them, weights unchanged (CAL).

    Signals: `logits`, `features`, `reference_logits`, `reference_features` and `reference_labels`. Over the weights
    `[N]` of a pool, with 0 for what has a label, these are the next examples to label. The references are the labeled
    examples, and one whose label is negative is padding. Ties are broken at random. Examples that exclude a class
    which a neighbor does not come first; those whose score is NaN are never kept, so without a labeled example none is.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      key: typed PRNG key or int seed, for the ties.
      num_neighbors: how many labeled examples each example is compared with, at most M, static.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, a signal has another kind of dtype.
      ValueError: if a count is out of range or, in `update`, the shapes of the signals do not match.

    References:
      Margatina et al., EMNLP 2021 (arXiv 2109.03764).

    Examples:
      >>> tx = keep_by_contrast(1, key=0, num_neighbors=1)
      >>> logits, features = jnp.array([[3.0, 0.0], [0.0, 3.0]]), jnp.array([[1.0, 0.1], [1.0, -0.1]])
      >>> labeled = {"reference_logits": logits[:1], "reference_features": features[:1]}
      >>> labeled["reference_labels"] = jnp.array([0])
      >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)), logits=logits, features=features, **labeled)[0].tolist()
      [0.0, 1.0]
    """
    check_count("k", k)
    check_count("num_neighbors", num_neighbors)
    rng_key = as_key(key)

    def update(
        weights,
        state,
        params=None,
        *,
        logits,
        features,
        reference_logits,
        reference_features,
        reference_labels,
        **extra_args,
    ):
        check_shape("logits", logits, (*weights.shape, None))
        next_key, tie_key = jax.random.split(state.rng_key)
        known = known_references(reference_features, reference_labels)
        options = {"num_neighbors": num_neighbors, "reference_mask": known}
        scores = contrastive_scores(logits, features, reference_logits, reference_features, **options)
        scores = jnp.where(jnp.isposinf(scores), jnp.finfo(scores.dtype).max, scores)  # the most unlike of all
        kept = topk_mask(scores, k, where=weights != 0, key=tie_key)
        return jnp.where(kept, weights, 0), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _score(references, directions, exists, row, *, num_neighbors):
    log_probabilities, direction = row
    nearness = jnp.where(exists, product(directions, direction), -jnp.inf)
    found, neighbors = jax.lax.top_k(nearness, num_neighbors)
    known = found > -jnp.inf
    others = references[neighbors]
    probabilities = jnp.exp(others)
    terms = jnp.where(probabilities == 0, 0, probabilities * (others - log_probabilities[None]))
    divergences = jnp.where(known, jnp.maximum(jnp.sum(terms, axis=1), 0), 0)
    return jnp.sum(divergences) / jnp.sum(known, dtype=divergences.dtype)


def _logarithms(logits: jax.Array, features: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Return the logarithms of the probabilities, and the mask of rows that have them and finite features."""
    logarithms = jax.nn.log_softmax(logits.astype(dtype), axis=1)
    return logarithms, finite_rows(features)[1] & ~jnp.any(jnp.isnan(logarithms), axis=1)
