"""Rounds over the batches of a fixed partition, first all of them, then those whose last loss is large.

References:
  Zakkam et al., Can we learn better with hard samples?, 2023 (arXiv 2304.03486).

Method: hard mini-batches
Paper: 2304.03486
Experiment: hard_batches
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape, check_whole
from minibatch_jax._loops import bind, cond
from minibatch_jax._vector import one_zero
from minibatch_jax.devices import replicate
from minibatch_jax.sampling._sampler import Rows, Sampler, rows_of


class HardBatchesState(NamedTuple):
    """State of `hard_batches`, for P batches of b rows.

    Attributes:
      partition: `[P, b]` int32, rows of each batch; -1 on the padding of the last one.
      last_losses: `[P]` float32, last finite mean loss of each batch, -inf if there was none yet.
      visits: `[P]` int32, the batches of this round in the order of their visits, then numbers that do not count.
      planned: `[]` int32, how many batches this round visits.
      position: `[]` int32, batches of this round that were drawn.
      round: `[]` int32, rounds that are complete.
      ignored: `[]` int32, batches fed back that are not of the partition or had no finite loss.
    """

    partition: jax.Array
    last_losses: jax.Array
    visits: jax.Array
    planned: jax.Array
    position: jax.Array
    round: jax.Array
    ignored: jax.Array


def hard_batch_mask(last_losses: jax.Array, fraction: float | jax.Array) -> jax.Array:
    """Return the mask of the `floor(fraction * P)` largest losses, at least one; ties go to the lowest index.

    Args:
      last_losses: `[P]`, floating point; non-finite ones are never chosen.
      fraction: of the batches, in (0, 1], may be traced.

    Returns:
      `[P]` bool.

    Raises:
      TypeError: if the losses are not floating point.
      ValueError: if the losses are no vector or the fraction is out of range.

    Examples:
      >>> hard_batch_mask(jnp.array([1.0, 3.0, 2.0, 0.0]), 0.5).tolist()
      [False, True, True, False]
    """
    check_shape("last_losses", last_losses, (None,))
    check_floating("last_losses", last_losses)
    check_number("fraction", fraction, 0, 1, open_low=True)
    number, usable = last_losses.shape[0], jnp.isfinite(last_losses)
    _, order = jax.lax.top_k(jnp.where(usable, one_zero(last_losses), -jnp.inf), number)
    rank = jnp.zeros(number, jnp.int32).at[order].set(jnp.arange(number, dtype=jnp.int32))
    share = jnp.asarray(fraction, jnp.float32) * number
    count = jnp.floor(share * (1 + 1e-6)).astype(jnp.int32)  # 0.29 * 100 is 29
    return usable & (rank < jnp.maximum(count, 1))


def hard_batches(
    num_examples: int,
    batch_size: int,
    *,
    fraction: float | jax.Array = 0.5,
    full_round_every: int | jax.Array = 0,
    shuffle: bool = False,
) -> Sampler:
    """Draw the batches of a fixed partition in rounds: all in the first, those of large last-seen loss in the others.

    The N rows are cut into P batches once; if b does not divide N, the last one is filled up with padding. The first
    round draws all batches in order. Each later round draws the `floor(fraction * P)` batches (at least one) with the
    largest last loss, in order of their index. Batches without a finite loss are left out of later rounds, or all
    batches are drawn if none has one. A round is planned when its first batch is drawn, so it knows the losses fed back
    until then.

    The published partition is that of the data set's order. If that order is by class or by time, batches have one
    class or one time each: then `shuffle=True` draws another order once, in `init`.

    A batch with wrong labels, whose loss never falls, is drawn in every round, while batches with a low loss keep a
    stale one. Compare runs at equal numbers of updates, not of rounds. At small scale the method made no difference
    beyond chance (the experiment `hard_batches`), and it drew somewhat more wrong labels.

    Args:
      num_examples: N, static.
      batch_size: b, static, at most N.
      fraction: of the batches in a round, in (0, 1], may be traced.
      full_round_every: revisit every batch each `full_round_every` rounds, to refresh stale losses; 0 for never.
      shuffle: whether the rows of the partition are in random order, static.

    Returns:
      A sampler; `init(key)` uses the key if it shuffles, and `update(state, rows, losses=losses)` with `[b]` losses of
      rows as they were drawn, late or out of order, remembers their weighted mean. Other rows are ignored and counted.

    Raises:
      TypeError: if a size is not a static int, `full_round_every` not an int or `shuffle` not a bool; in `update`, if
        losses are not floating point.
      ValueError: if a size is below 1, the batch is larger than the data set, or a number is out of range; in `update`,
        if the losses are not `[b]`.

    Examples:
      >>> sampler = hard_batches(4, 2, fraction=0.5)
      >>> state, drawn = sampler.init(0), []
      >>> for _ in range(4):
      ...   rows, state = sampler.sample(state)
      ...   state = sampler.update(state, rows, losses=rows.indices.astype(jnp.float32))
      ...   drawn.append(rows.indices.tolist())
      >>> drawn
      [[0, 1], [2, 3], [2, 3], [2, 3]]
    """
    check_count("num_examples", num_examples)
    check_count("batch_size", batch_size, num_examples, "the number of examples")
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_whole("full_round_every", full_round_every)
    if not isinstance(shuffle, bool):
        raise TypeError(f"shuffle is {shuffle!r}, wanted a bool.")
    num_batches = -(-num_examples // batch_size)

    def init(key: jax.Array | int) -> HardBatchesState:
        order = jnp.arange(num_examples, dtype=jnp.int32)
        order = jax.random.permutation(as_key(key), order) if shuffle else order
        order = jnp.pad(order, (0, num_batches * batch_size - num_examples), constant_values=-1)
        partition = order.reshape(num_batches, batch_size)
        losses, batches = jnp.full(num_batches, -jnp.inf, jnp.float32), jnp.arange(num_batches, dtype=jnp.int32)
        numbers = [jnp.int32(number) for number in (num_batches, 0, 0, 0)]
        return HardBatchesState(partition, losses, batches, *numbers)

    def sample(state: HardBatchesState) -> tuple[Rows, HardBatchesState]:
        begins = (state.position == 0) & (state.round > 0)
        plan = bind(_plan, jnp.asarray(fraction, jnp.float32), jnp.asarray(full_round_every, jnp.int32))
        visits, planned = cond(begins, plan, _as_planned, state)
        rows = rows_of(state.partition[visits[state.position]])
        done = state.position + 1 >= planned
        position = jnp.where(done, 0, state.position + 1)
        round_ = state.round + done.astype(jnp.int32)
        return rows, state._replace(visits=visits, planned=planned, position=position, round=round_)

    def update(state: HardBatchesState, rows: Rows, *, losses: jax.Array, **signals: object) -> HardBatchesState:
        check_shape("losses", losses, rows.indices.shape)
        check_floating("losses", losses)
        check_shape("rows.indices", rows.indices, (batch_size,))
        losses = replicate(losses)
        batch = jnp.argmax(state.partition[:, 0] == rows.indices[0]).astype(jnp.int32)
        known = jnp.all(state.partition[batch] == rows.indices)
        counts = rows.weights > 0
        total = jnp.sum(jnp.where(counts, losses.astype(jnp.float32) * rows.weights, 0))
        mean = total / jnp.sum(jnp.where(counts, rows.weights, 0))
        usable = known & jnp.isfinite(mean)
        last_losses = state.last_losses.at[jnp.where(usable, batch, num_batches)].set(mean, mode="drop")
        return state._replace(last_losses=last_losses, ignored=state.ignored + (~usable).astype(jnp.int32))

    return Sampler(init, sample, update)


def _plan(fraction: jax.Array, every: jax.Array, state: HardBatchesState) -> tuple[jax.Array, jax.Array]:
    """Return the batches of the next round, in order, and how many there are."""
    hard = hard_batch_mask(state.last_losses, fraction)
    full = ~jnp.any(hard) | ((every > 0) & (state.round % jnp.maximum(every, 1) == 0))
    chosen = hard | full
    visits = jnp.nonzero(chosen, size=chosen.shape[0], fill_value=0)[0].astype(jnp.int32)
    return visits, jnp.sum(chosen, dtype=jnp.int32)


def _as_planned(state: HardBatchesState) -> tuple[jax.Array, jax.Array]:
    return state.visits, state.planned
