"""Similarity along the manifold of the batch: a random walk over embeddings and proxies, and a loss made of it.

Method: manifold similarity
Experiment: pairs_that_count
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_bool, check_floating, check_number, check_shape
from minibatch_jax.mining._pairs import check_positive, finite_pairs, keeps_dtype
from minibatch_jax.mining.distances import cosine_similarity
from minibatch_jax.mining.losses._exponentials import log1p_sum_exp
from minibatch_jax.mining.reductions import reduce_losses
from minibatch_jax.weights import weight_dtype


def random_walk_similarity(
    similarities: jax.Array, *, restart: float | jax.Array = 0.2, temperature: float | jax.Array = 0.5
) -> jax.Array:
    """Return how likely a random walk from one item is to end at another, symmetrized.

    With A the matrix of exp([s]_+ / temperature) off the diagonal and D its row sums, the result is
    restart * (I - (1 - restart) D^-1/2 A D^-1/2)^-1. An item without a finite pair reaches no other item.

    Args:
      similarities: `[N, N]`, floating point, cosine, symmetric; the walk takes no step along a pair whose similarity is
        not finite.
      restart: in (0, 1], probability that the walk ends at each step.
      temperature: > 0; a step has weight exp([s]_+ / temperature).

    Returns:
      `[N, N]`, at least 0 up to rounding, in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point or a hyper-parameter is not a number.
      ValueError: if they are not square or a number is out of range.

    References:
      Aziere and Todorovic, Ensemble deep manifold similarity learning using hard proxies, CVPR 2019.

    Examples:
      >>> [round(x, 3) for x in random_walk_similarity(jnp.ones((2, 2)), restart=0.5)[0].tolist()]
      [0.667, 0.333]
    """
    check_shape("similarities", similarities, (None, jnp.shape(similarities)[0] if jnp.ndim(similarities) else None))
    check_floating("similarities", similarities)
    check_number("restart", restart, 0, 1, open_low=True)
    check_positive(temperature=temperature)
    itself = jnp.eye(similarities.shape[0], dtype=bool)
    step = jnp.isfinite(similarities) & ~itself
    gains = jax.nn.relu(jnp.where(step, similarities, 0).astype(weight_dtype(similarities.dtype))) / temperature
    linked = jnp.any(step, axis=1)
    degree = jax.nn.logsumexp(jnp.where(linked[:, None], gains, 0), axis=1, where=step | ~linked[:, None]) / 2
    steps = jnp.where(step, jnp.exp(jnp.where(step, gains - degree[:, None] - degree[None, :], 0)), 0)
    identity = itself.astype(steps.dtype)
    return (restart * jnp.linalg.solve(identity - (1 - restart) * steps, identity)).astype(similarities.dtype)


@keeps_dtype
def manifold_loss(
    similarities: jax.Array,
    positives: jax.Array,
    negatives: jax.Array,
    *,
    restart: float | jax.Array = 0.2,
    temperature: float | jax.Array = 0.5,
    margin: float | jax.Array = 5e-4,
    context: float | jax.Array = 1.0,
    reduction: str = "mean",
) -> jax.Array:
    """Return a loss that brings each anchor nearer to its proxy than to others, in the sense of random walks.

    The walks of `random_walk_similarity` run over anchors and proxies. Let s be the similarities of an anchor to the
    proxies by walks, and c the cosines of its whole walk to theirs. The anchor loses L(s) + context * L(c) with
    L(s) = log(1 + sum_n exp(s_n - s_p + margin)), p its own proxy and n the others whose exponent is not negative.
    Without labels, give the anchors to proxies at random: `jax.random.permutation(key, jnp.arange(A) % C)`.

    Args:
      similarities: `[A + C, A + C]`, floating point, `cosine_similarity(jnp.concatenate([embeddings, proxies]))`.
      positives: `[A, C]` bool, the proxy of each anchor.
      negatives: `[A, C]` bool, the other proxies; an anchor in neither mask takes no part in the walk, and one without
        a finite similarity no part in the loss.
      restart: in (0, 1], probability that the walk ends at each step.
      temperature: > 0; a step has weight exp([s]_+ / temperature).
      margin: by which the anchor should be nearer to its own proxy; differentiable.
      context: >= 0, weight of the second term, which compares whole walks.
      reduction: "mean", "active_mean", "anchor_mean", "sum", "anchors" or "none" over the losses of anchors with a
        proxy, defined at `reduce_losses`.

    Returns:
      `[]`, or `[A]` for "anchors" and "none", in the dtype of the similarities.

    Raises:
      TypeError: if the similarities are not floating point, the masks not bool or a hyper-parameter not a number.
      ValueError: if shapes do not match, a number is out of range, or the reduction is unknown.

    References:
      Aziere and Todorovic, Ensemble deep manifold similarity learning using hard proxies, CVPR 2019.

    Examples:
      >>> similarities = cosine_similarity(jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
      >>> positives = jnp.array([[True, False]])  # one anchor on the first of two proxies
      >>> float(manifold_loss(similarities, positives, ~positives))
      0.0
    """
    check_shape("positives", positives, (None, None))
    check_shape("negatives", negatives, positives.shape)
    for name, mask in (("positives", positives), ("negatives", negatives)):
        check_bool(name, mask)
    anchors, number = positives.shape[0], sum(positives.shape)
    check_shape("similarities", similarities, (number, number))
    check_number("context", context, 0)
    used = jnp.concatenate([jnp.any(positives | negatives, axis=1), jnp.ones(number - anchors, bool)])
    check_floating("similarities", similarities)
    wide = similarities.astype(weight_dtype(similarities.dtype))
    among = jnp.where(used[:, None] & used[None, :], wide, jnp.nan)
    linked = jnp.any(jnp.isfinite(among) & ~jnp.eye(number, dtype=bool), axis=1)
    pairs = linked[:anchors, None] & linked[None, anchors:]
    positives, negatives = positives & pairs, negatives & pairs
    walks = random_walk_similarity(among, restart=restart, temperature=temperature)
    near = _excess_loss(walks[:anchors, anchors:], positives, negatives, margin)
    alike = _excess_loss(cosine_similarity(walks[:anchors], walks[anchors:]), positives, negatives, margin)
    return reduce_losses(near + context * alike, jnp.any(positives, axis=1), reduction)


def _excess_loss(values, positives, negatives, margin):
    """Return log(1 + sum exp(s_n - s_p + margin)) over the negatives whose exponent is not negative."""
    values, positives, negatives = finite_pairs("similarities", values, positives, negatives)
    own = jnp.sum(jnp.where(positives, values, 0), axis=1, keepdims=True)
    excess = values - own + margin
    return log1p_sum_exp(excess, negatives & (excess >= 0))
