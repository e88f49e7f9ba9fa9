"""Choose a sub-batch jointly: in a contrastive loss the value of an example depends on the others chosen (JEST).

The score of a pair is its learnability: its loss under the learner minus its loss under a reference. A batch is drawn
in chunks. Each chunk is drawn without replacement from a softmax, whose logit for an example is what the example would
add to the sum of scores within the batch so far. Draws are Gumbel-top-k, in log space.

References:
  Evans et al., Data curation via joint example selection further accelerates multimodal learning, NeurIPS 2024
  (arXiv 2406.17711).
  Kool et al., Stochastic beams and where to find them, ICML 2019 (arXiv 1903.06059).

Method: JEST
Paper: 2406.17711
Experiment: jest_race, speed jest
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_floating, check_shape, mask_or_all
from minibatch_jax._loops import bind
from minibatch_jax.selection._chunked_draw import check_chunks, chunked_draw
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation

OBJECTIVES = ("sigmoid", "softmax")


def jest_indices(
    key: jax.Array | int,
    learnability: jax.Array,
    k: int,
    num_chunks: int,
    *,
    first_chunk: str = "learnability",
    temperature: float = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Draw k of B items whose pairs among themselves have high learnability.

    The logit of an item is its diagonal entry plus the sums of its row and of its column over the items already chosen:
    exactly what the item adds to the sum of `learnability` within the batch. Averages instead of sums would make the
    items already chosen almost irrelevant.

    Args:
      key: typed PRNG key or int seed.
      learnability: `[B, B]`, floating point, loss under the learner minus loss under the reference of each pair. An
        item whose diagonal entry is not finite is never chosen; other entries that are not finite count as 0.
      k: how many to draw, 1 <= k <= B, a multiple of `num_chunks`, static.
      num_chunks: number of draws in sequence, 1 for a draw without interaction, static.
      first_chunk: logits of the first chunk, "learnability" for the diagonal or "uniform" for zeros.
      temperature: divides the logits, positive.
      where: `[B]` bool, which items may be chosen; all by default.

    Returns:
      `[k]` int32, distinct, in order of the draws. If fewer than k items may be chosen, the other entries are B, one
      past the end, which `array.at[indices].set` drops.

    Raises:
      TypeError: if the scores are not floating point, a count is not a static int or the key is a raw array.
      ValueError: if shapes do not match, k is not in [1, B] or not a multiple of `num_chunks`, or an option is unknown.

    References:
      Evans et al., NeurIPS 2024 (arXiv 2406.17711).

    Examples:
      >>> scores = jnp.diag(jnp.array([9.0, 0.0, 0.0, 0.0])).at[0, 2].set(99.0)
      >>> jest_indices(jax.random.key(0), scores, k=2, num_chunks=2).tolist()
      [0, 2]
    """
    scores, allowed = _scores("learnability", learnability, where)
    diagonal = jnp.diagonal(scores)
    return chunked_draw(
        key,
        allowed,
        jnp.zeros_like(diagonal),
        bind(jnp.add, diagonal),
        bind(_add_rows_and_columns, scores),
        k=k,
        num_chunks=num_chunks,
        first_chunk=first_chunk,
        temperature=temperature,
    )


def softmax_jest_indices(
    key: jax.Array | int,
    logits: jax.Array,
    reference_logits: jax.Array,
    k: int,
    num_chunks: int,
    *,
    include_self: bool = True,
    first_chunk: str = "learnability",
    temperature: float = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Draw k of B items jointly under the softmax contrastive loss.

    The logit of item i is its learnability given the set A chosen so far: its loss under the learner minus its loss
    under the reference. With the similarities a of a model, the loss of item i is `-a_ii` plus half the log-sum-exp of
    its row over A plus half the log-sum-exp of its column over A. For the first chunk A is empty and the loss is
    `-a_ii`.

    Args:
      key: typed PRNG key or int seed.
      logits: `[B, B]`, floating point, similarity of each pair under the learner. An item whose diagonal entry is not
        finite under either model is never chosen; other pairs that are not finite under either model count as absent.
      reference_logits: `[B, B]`, floating point, similarity of each pair under the reference.
      k: how many to draw, 1 <= k <= B, a multiple of `num_chunks`, static.
      num_chunks: number of draws in sequence, 1 for a draw without interaction, static.
      include_self: whether the log-sum-exp of an item includes its own pair, as it will once the item is chosen.
      first_chunk: logits of the first chunk, "learnability" for the learnability without A or "uniform" for zeros.
      temperature: divides the logits of the draw, positive.
      where: `[B]` bool, which items may be chosen; all by default.

    Returns:
      `[k]` int32, distinct, in order of the draws. If fewer than k items may be chosen, the other entries are B.

    Raises:
      TypeError: if the logits are not floating point, a count is not a static int or the key is a raw array.
      ValueError: if shapes do not match, k is not in [1, B] or not a multiple of `num_chunks`, or an option is unknown.

    References:
      Evans et al., NeurIPS 2024 (arXiv 2406.17711).

    Examples:
      >>> softmax_jest_indices(jax.random.key(0), jnp.eye(4), 2 * jnp.eye(4), k=4, num_chunks=2).sort().tolist()
      [0, 1, 2, 3]
    """
    check_shape("reference_logits", reference_logits, logits.shape)
    learner, allowed = _scores("logits", logits, where)
    reference, allowed = _scores("reference_logits", reference_logits, allowed)
    present = jnp.isfinite(logits) & jnp.isfinite(reference_logits)
    pairs = [jnp.where(present, a, -jnp.inf) for a in (learner, reference)]
    diagonals = [jnp.diagonal(a) for a in (learner, reference)]
    empty = jnp.full_like(diagonals[0], -jnp.inf)
    return chunked_draw(
        key,
        allowed,
        [(empty, empty)] * 2,
        bind(_softmax_learnability, diagonals, include_self=include_self),
        bind(_add_exponentials, pairs),
        k=k,
        num_chunks=num_chunks,
        first_chunk=first_chunk,
        temperature=temperature,
    )


def keep_by_jest(
    k: int,
    num_chunks: int,
    key: jax.Array | int,
    *,
    objective: str = "sigmoid",
    first_chunk: str = "learnability",
    temperature: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Keep k examples drawn jointly by learnability (JEST). Signals: `pair_losses`, `reference_pair_losses` [B, B].

    The weights of the kept examples are unchanged, the others become 0. Dropped examples must not remain as negatives:
    gather the kept rows and compute the loss among them (`value_and_grad(..., gather=k)`). Without a gather, choose
    pairs by `among_rows(keep_by_jest(...))` under the sigmoid loss, or mask the logits under the softmax loss. JEST
    prefers examples that are hard to tell apart, so remove duplicates from the data first, with `near_duplicates` (of
    texts) or `near_duplicates_by_cosine` (of embeddings). The published setting keeps k = B / 5 in 16 chunks.

    Args:
      k: how many to keep, 1 <= k <= B, a multiple of `num_chunks`, static.
      num_chunks: number of draws in sequence, 1 for a draw without interaction, static.
      key: typed PRNG key or int seed.
      objective: "sigmoid" if the signals are losses of pairs, such as `sigmoid_pair_losses` returns; "softmax" if the
        signals are the negated similarities of pairs.
      first_chunk: logits of the first chunk, "learnability" for the learnability of each example alone or "uniform" for
        zeros.
      temperature: divides the logits of the draw, positive.

    Returns:
      A transformation over `[B]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is a raw array or, in `update`, a signal is not floating point.
      ValueError: if k is not a multiple of `num_chunks`, an option is unknown or, in `update`, k > B or a signal is not
        `[B, B]`.

    References:
      Evans et al., NeurIPS 2024 (arXiv 2406.17711).

    Examples:
      >>> tx = keep_by_jest(k=2, num_chunks=2, key=0)
      >>> pair_losses = jnp.diag(jnp.array([9.0, 0.0, 0.0])).at[0, 2].set(99.0)
      >>> signals = dict(pair_losses=pair_losses, reference_pair_losses=jnp.zeros((3, 3)))
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), **signals)[0].tolist()
      [1.0, 0.0, 1.0]
    """
    check_choice("objective", objective, OBJECTIVES)
    check_chunks(k, num_chunks, first_chunk, temperature)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, pair_losses, reference_pair_losses, **extra_args):
        check_shape("pair_losses", pair_losses, weights.shape * 2)
        check_shape("reference_pair_losses", reference_pair_losses, weights.shape * 2)
        check_floating("pair_losses", pair_losses)
        check_floating("reference_pair_losses", reference_pair_losses)
        pair_losses, reference = (x.astype(weights.dtype) for x in (pair_losses, reference_pair_losses))
        next_key, draw_key = jax.random.split(state.rng_key)
        options = {"first_chunk": first_chunk, "temperature": temperature, "where": weights != 0}
        if objective == "softmax":
            chosen = softmax_jest_indices(draw_key, -pair_losses, -reference, k, num_chunks, **options)
        else:
            chosen = jest_indices(draw_key, pair_losses - reference, k, num_chunks, **options)
        return keep_rows(weights, chosen), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _add_rows_and_columns(scores, total, chosen, valid):
    def pick(rows):
        return jnp.where(valid[:, None], rows, 0)

    return total + jnp.sum(pick(scores[chosen]), 0) + jnp.sum(pick(scores.T[chosen]), 0)


def _add_exponentials(pairs, sums, chosen, valid):
    """Add the chosen rows and columns to the log-sum-exps of each model."""

    def add(total, a):
        new = jax.nn.logsumexp(jnp.where(valid[:, None], a[chosen], -jnp.inf), axis=0)
        return jnp.logaddexp(total, new)

    return [(add(row, a.T), add(column, a)) for (row, column), a in zip(sums, pairs)]


def _softmax_learnability(diagonals, sums, *, include_self):
    def loss(sums, diagonal):
        halves = [jnp.logaddexp(s, diagonal) if include_self else s for s in sums]
        return sum(jnp.where(jnp.isfinite(s), 0.5 * h, 0) for s, h in zip(sums, halves)) - diagonal

    return loss(sums[0], diagonals[0]) - loss(sums[1], diagonals[1])


def _scores(name: str, scores: jax.Array, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return the scores with 0 where they are not finite, and which items may be chosen."""
    check_shape(name, scores, (None, None))
    check_shape(name, scores, scores.shape[:1] * 2)
    check_floating(name, scores)
    scores = scores.astype(weight_dtype(scores.dtype))
    finite = jnp.isfinite(scores)
    allowed = jnp.diagonal(finite)
    allowed &= mask_or_all("where", where, scores.shape[:1])
    return jnp.where(finite, scores, 0), allowed
