"""Which unlabeled examples to label next: those on which several models disagree.

The committee may be trained models, the same model under several dropout masks, or draws from a posterior. The highest
scores are to be labeled first.

References:
  Seung, Opper & Sompolinsky, Query by committee, COLT 1992.
  McCallum & Nigam, Employing EM and pool-based active learning for text classification, ICML 1998.
  Houlsby et al., Bayesian active learning for classification and preference learning, 2011 (arXiv 1112.5745).
  Gal, Islam & Ghahramani, Deep Bayesian active learning with image data, ICML 2017 (arXiv 1703.02910).

Method: query by committee, BALD
Paper: 1112.5745, 1703.02910
Experiment: active_texts, speed strategies
"""

import math

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_shape
from minibatch_jax._vector import first_maxima
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation


def consensus_divergence(committee_logits: jax.Array) -> jax.Array:
    """Return the mean divergence of the members from their mean prediction, in nats: the score of BALD.

    The mean over the members m of `KL(p_m || p)`, where p is the mean of all p_m, equals the entropy of p minus the
    mean entropy of the members. So the score of a committee and that of Bayesian active learning by disagreement, the
    information that the label has about the member, are one number. An example on which all members are equally unsure
    has score 0.

    Args:
      committee_logits: `[N, M, C]`, floating point, class scores of M members.

    Returns:
      `[N]`, in [0, ln M], float32 (float64 if the logits are); NaN where the softmax of a member is NaN.

    Raises:
      TypeError: if the logits are not floating point.
      ValueError: if they are not `[N, M, C]`.

    References:
      McCallum & Nigam, ICML 1998. Houlsby et al., 2011 (arXiv 1112.5745).

    Examples:
      >>> committee_logits = jnp.log(jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]]))
      >>> [round(x, 4) for x in consensus_divergence(committee_logits).tolist()]
      [0.6931, 0.0]
    """
    logits = _checked(committee_logits)
    members = jax.nn.log_softmax(logits, axis=2)
    consensus = jax.nn.logsumexp(members, axis=1, keepdims=True) - math.log(logits.shape[1])
    probabilities = jnp.exp(members)
    terms = jnp.where(probabilities == 0, 0, probabilities * (members - consensus))
    return jnp.maximum(jnp.mean(jnp.sum(terms, axis=2), axis=1), 0)


def vote_entropy(committee_logits: jax.Array) -> jax.Array:
    """Return the entropy of the members' votes, in nats; each member votes for its likeliest class.

    Args:
      committee_logits: `[N, M, C]`, floating point, class scores of M members; of equal ones the lowest class counts.

    Returns:
      `[N]`, in [0, ln min(C, M)], float32 (float64 if the logits are); NaN where the softmax of a member is NaN.

    Raises:
      TypeError: if the logits are not floating point.
      ValueError: if they are not `[N, M, C]`.

    References:
      Seung, Opper & Sompolinsky, COLT 1992.

    Examples:
      >>> committee_logits = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [2.0, 0.0]]])
      >>> [round(x, 4) for x in vote_entropy(committee_logits).tolist()]
      [0.6931, 0.0]
    """
    logits = _checked(committee_logits)
    (top, votes), classes = first_maxima(logits, axis=2), jnp.arange(logits.shape[2], dtype=jnp.int32)[None, None]
    counts = jnp.sum(votes[:, :, None] == classes, axis=1, dtype=jnp.int32)
    entropies = jnp.sum(jax.scipy.special.entr(counts.astype(logits.dtype) / logits.shape[1]), axis=1)
    return jnp.where(jnp.all(jnp.isfinite(top), axis=1), entropies, jnp.nan)


SCORES = {"divergence": consensus_divergence, "votes": vote_entropy}


def keep_disputed(k: int, key: jax.Array | int, *, score: str = "divergence") -> optax.GradientTransformationExtraArgs:
    """Keep the k examples on which a committee disagrees most, weights unchanged. Signal: `committee_logits` [N, M, C].

    Over the weights `[N]` of a pool, with 0 for what has a label, these are the next examples to label. Ties, which are
    many between votes, are broken at random. Examples with a member whose softmax is NaN are never kept. If fewer than
    k examples have a weight, all of them are kept.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      key: typed PRNG key or int seed, for the ties.
      score: "divergence" (BALD) or "votes".

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if k is not a static int, the key is no key or, in `update`, the logits are not floating point.
      ValueError: if the score is unknown, k < 1 or, in `update`, k > N or the logits are not `[N, M, C]`.

    References:
      Houlsby et al., 2011 (arXiv 1112.5745).

    Examples:
      >>> tx = keep_disputed(1, key=0)
      >>> committee_logits = jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
      >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)), committee_logits=committee_logits)[0].tolist()
      [0.0, 1.0]
    """
    check_count("k", k)
    check_choice("score", score, tuple(SCORES))
    rng_key = as_key(key)

    def update(weights, state, params=None, *, committee_logits, **extra_args):
        check_shape("committee_logits", committee_logits, (*weights.shape, None, None))
        next_key, tie_key = jax.random.split(state.rng_key)
        kept = topk_mask(SCORES[score](committee_logits), k, where=weights != 0, key=tie_key)
        return jnp.where(kept, weights, 0), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _checked(committee_logits: jax.Array) -> jax.Array:
    check_shape("committee_logits", committee_logits, (None, None, None))
    check_floating("committee_logits", committee_logits)
    return committee_logits.astype(weight_dtype(committee_logits.dtype))
