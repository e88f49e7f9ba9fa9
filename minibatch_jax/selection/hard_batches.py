"""Which batches of a fixed partition to visit next: those whose last-seen loss is large (weights `[P]`).

References:
  Zakkam et al., Can we learn better with hard samples?, 2023 (arXiv 2304.03486).

Method: hard mini-batches
Paper: 2304.03486
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_floating, check_number, check_shape, check_whole, mask_or_all
from minibatch_jax._vector import one_zero
from minibatch_jax.weights import weight_transformation


class HardBatchesState(NamedTuple):
    """Last losses of the batches, and the batches that the round still has to visit.

    Attributes:
      last_losses: `[P]`, last finite loss of each batch, -inf if there was none yet.
      pending: `[P]` bool, batches that this round still has to visit.
      round: `[]` int32, rounds begun; 0 is the first, over all batches.
    """

    last_losses: jax.Array
    pending: jax.Array
    round: jax.Array


def hard_batch_mask(last_losses: jax.Array, fraction: float, *, where: jax.Array | None = None) -> jax.Array:
    """Return the mask of the `floor(delta * P)` largest losses, at least one; ties go to the lowest index.

    Args:
      last_losses: `[P]`, floating point; non-finite ones are never chosen.
      fraction: fraction of the batches, 0 < delta <= 1.
      where: `[P]` bool, which batches exist; P in `floor(delta * P)` counts these; all by default.

    Returns:
      `[P]` bool.

    Raises:
      TypeError: if the losses are not floating point.
      ValueError: if shapes do not match or delta is not in (0, 1].

    Examples:
      >>> hard_batch_mask(jnp.array([1.0, 3.0, 2.0, 0.0]), 0.5).tolist()
      [False, True, True, False]
    """
    check_shape("last_losses", last_losses, (None,))
    check_floating("last_losses", last_losses)
    check_number("fraction", fraction, 0, 1, open_low=True)
    where = mask_or_all("where", where, last_losses.shape)
    usable = where & jnp.isfinite(last_losses)
    _, order = jax.lax.top_k(jnp.where(usable, one_zero(last_losses), -jnp.inf), last_losses.shape[0])
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0], dtype=jnp.int32))
    share = jnp.asarray(fraction, jnp.float32) * jnp.sum(where, dtype=jnp.float32)
    count = jnp.floor(share * (1 + 1e-6)).astype(jnp.int32)
    return usable & (rank < jnp.maximum(count, 1))


def keep_hard_batches(fraction: float = 0.5, full_round_every: int = 0) -> optax.GradientTransformationExtraArgs:
    """Keep one batch, the next to visit, of a fixed partition into P; the others get 0. Signal: `losses` [P].

    The first round visits all batches in order. Each later round visits the `floor(delta * P)` batches (at least one)
    with the largest last-seen loss, in order of their index. The signal holds the losses measured since the last
    update: an entry that is not finite means "not measured", and the state keeps the last value. A batch that never had
    a finite loss is left out of later rounds. Compare runs at equal numbers of updates, not of rounds.

    A batch with wrong labels, whose loss never falls, is visited in every round, while batches with a low loss keep a
    stale one. At small scale the method made no difference on clean labels and hurt on noisy ones.

    Args:
      fraction: fraction of the batches in a round, 0 < delta <= 1.
      full_round_every: revisit every batch each `full_round_every` rounds, to refresh stale losses; int, 0 for never.

    Returns:
      A transformation over `[P]` weights; `jnp.argmax` of what it returns is the index of the batch.

    Raises:
      TypeError: if `full_round_every` is not an int or, in `update`, the losses are not floating point.
      ValueError: if delta is not in (0, 1], `full_round_every` is negative or, in `update`, the losses are not `[P]`.

    References:
      Zakkam et al., Can we learn better with hard samples?, 2023 (arXiv 2304.03486).

    Examples:
      >>> tx = keep_hard_batches(fraction=0.5)
      >>> weights = jnp.ones(2)
      >>> state, losses, visited = tx.init(weights), jnp.full(2, jnp.nan), []
      >>> for _ in range(4):
      ...   kept, state = tx.update(weights, state, losses=losses)
      ...   visited.append(int(kept.argmax()))
      ...   losses = jnp.full(2, jnp.nan).at[visited[-1]].set(jnp.array([1.0, 5.0])[visited[-1]])
      >>> visited
      [0, 1, 1, 1]
    """
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_whole("full_round_every", full_round_every)

    def init(weights):
        return HardBatchesState(
            jnp.full(weights.shape, -jnp.inf, weights.dtype), jnp.ones(weights.shape, bool), jnp.zeros((), jnp.int32)
        )

    def update(weights, state, params=None, *, losses, **extra_args):
        check_shape("losses", losses, weights.shape)
        check_floating("losses", losses)
        exists = weights != 0
        losses = losses.astype(weights.dtype)
        last_losses = jnp.where(exists & jnp.isfinite(losses), losses, state.last_losses)
        pending = state.pending & exists
        finished = ~jnp.any(pending)
        round_ = state.round + finished.astype(jnp.int32)
        plan = _plan(last_losses, exists, fraction, round_, full_round_every)
        pending = jnp.where(finished, plan, pending)
        visit = pending & (jnp.cumsum(pending) == 1)
        return jnp.where(visit, weights, 0), HardBatchesState(last_losses, pending & ~visit, round_)

    return weight_transformation(init, update)


def _plan(
    last_losses: jax.Array, exists: jax.Array, fraction: float, round_: jax.Array, full_round_every: int
) -> jax.Array:
    hard = hard_batch_mask(last_losses, fraction, where=exists)
    every = jnp.asarray(full_round_every, jnp.int32)
    full = ~jnp.any(hard) | ((every > 0) & (round_ % jnp.maximum(every, 1) == 0))
    return jnp.where(full, exists, hard)
