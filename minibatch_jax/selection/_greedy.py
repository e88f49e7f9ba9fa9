"""Greedy maximization of a facility-location value, with rows of similarities read or computed on demand.

References:
  Minoux, Accelerated greedy algorithms for maximizing submodular set functions, 1978.
  Mirzasoleiman et al., Lazier than lazy greedy, AAAI 2015 (arXiv 1409.7938).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._loops import bind, fori_loop, map_rows, scan, while_loop
from minibatch_jax._vector import first_max, weighted_sum
from minibatch_jax.geometry import product

_PARTS = 16
Rows = Callable[[jax.Array], jax.Array]


class Medoids(NamedTuple):
    """A greedy choice of k of M candidates, in order.

    Attributes:
      indices: `[k]` int32, distinct; M, one past the end, where no candidate was left.
      gains: `[k]`, what each candidate added to the value; 0 where no candidate was left.
      owners: `[N]` int32, place in `indices` of the candidate that represents each item best; 0 if none does.
    """

    indices: jax.Array
    gains: jax.Array
    owners: jax.Array


class Greedy(NamedTuple):
    """State of the greedy choice.

    Attributes:
      chosen: the choice so far.
      best: `[N]`, largest similarity of each item to the choice so far.
    """

    chosen: Medoids
    best: jax.Array


def start(best: jax.Array, k: int) -> Greedy:
    """Return the state before k choices; `best` is the similarity to earlier choices, or 0 or -inf without any."""
    nothing = Medoids(jnp.zeros(k, jnp.int32), jnp.zeros(k, best.dtype), jnp.zeros(best.shape, jnp.int32))
    return Greedy(nothing, best)


def gains_of(similarities: jax.Array, best: jax.Array, item_weights: jax.Array) -> jax.Array:
    """Return the gain `[...]` of each candidate, given its similarities `[..., N]` to the items, weighted by `[N]`."""
    return weighted_sum(jnp.maximum(similarities - jnp.broadcast_to(best, similarities.shape), 0), item_weights)


def naive(
    greedy: Greedy,
    rows: jax.Array,
    item_weights: jax.Array,
    allowed: jax.Array,
    first_gains: jax.Array,
    offset: float | jax.Array = 0.0,
) -> Medoids:
    """Choose by evaluating all candidates, with similarities `[M, N]`, in every step but the first.

    The offset is what all first gains lack, so that they can be compared without rounding.
    """
    k = greedy.chosen.indices.shape[0]
    return fori_loop(0, k, bind(_best_of_all, rows, item_weights, first_gains, offset), (greedy, allowed))[0].chosen


def _best_of_all(rows, item_weights, first_gains, offset, t, state):
    greedy, free = state
    gains = jnp.where(t == 0, first_gains, gains_of(rows, greedy.best, item_weights))
    gain, j = first_max(jnp.where(free, gains, -jnp.inf))
    gain += jnp.where(t == 0, offset, 0)
    return take(greedy, t, j, gain, rows[j], rows.shape[0]), free.at[j].set(False)


def gains_within(nearness: jax.Array, best: jax.Array, item_weights: jax.Array, groups: jax.Array) -> jax.Array:
    """Return the gain `[N]` of each item for its own group, given the nearness `[N, N]` of all items.

    Where `best` is -inf, a group has no choice yet. The gains of its items are then sums of their nearness, which can
    be compared within the group only.
    """
    added = jnp.where(best[None] > -jnp.inf, jnp.maximum(nearness - best[None], 0), nearness)
    return jnp.sum(jnp.where(groups[:, None] == groups[None], item_weights[None] * added, 0), axis=-1)


def of_each_group(
    nearness: jax.Array, item_weights: jax.Array, allowed: jax.Array, groups: jax.Array, num_groups: int, k: int
) -> jax.Array:
    """Choose k items of each group, one of every group in each step, by their nearness `[N, N]`.

    Returns:
      `[N]` int32, the chosen item that represents each item best.
    """
    size = groups.shape[0]
    state = jnp.zeros(size, jnp.int32), jnp.full(size, -jnp.inf, nearness.dtype), allowed
    step = bind(_best_of_groups, nearness, item_weights, groups, num_groups=num_groups)
    return fori_loop(0, k, step, state)[0]


def _best_of_groups(nearness, item_weights, groups, t, state, *, num_groups):
    owners, best, free = state
    items = jnp.arange(groups.shape[0], dtype=jnp.int32)
    gains = jnp.where(free, gains_within(nearness, best, item_weights, groups), -jnp.inf)
    top = jax.ops.segment_max(gains, groups, num_groups)[groups]
    first = jnp.where(free & (gains == top), items, groups.shape[0] - 1)
    chosen = jax.ops.segment_min(first, groups, num_groups)[groups]
    row = nearness[chosen, items]
    closer = (top > -jnp.inf) & (row > best)
    return jnp.where(closer, chosen, owners), jnp.where(closer, row, best), free & (items != chosen)


def rows_of_matrix(similarities: jax.Array, indices: jax.Array) -> jax.Array:
    """Return rows `[..., N]` of a matrix: what `lazy` and `stochastic` read, once it is bound to the matrix."""
    return similarities[indices]


def usable_rows(similarities: jax.Array, item_weights: jax.Array, indices: jax.Array) -> jax.Array:
    """Return rows as `rows_of_matrix` does, made usable when they are read, which saves a copy of the matrix."""
    return usable(similarities[indices], item_weights)


def value_of_each(similarities: jax.Array, item_weights: jax.Array) -> jax.Array:
    """Return the gain `[M]` of each candidate as the first one, a few rows of usable similarities at a time."""
    block_size = -(-similarities.shape[0] // _PARTS)
    return map_rows(bind(_value_of, item_weights), similarities, block_size=block_size)


def _value_of(item_weights, row):
    return weighted_sum(usable(row, item_weights), item_weights)


def usable(similarities: jax.Array, item_weights: jax.Array) -> jax.Array:
    """Return similarities `[..., N]` with 0 for what is negative, not finite or to an item of no weight."""
    limit = jnp.broadcast_to(jnp.where(item_weights != 0, jnp.inf, -jnp.inf), similarities.shape)
    return jnp.where(similarities < limit, jnp.maximum(similarities, 0), 0)


def of_matrix(nearness: jax.Array, bound: jax.Array, k: int, item_weights: jax.Array, allowed: jax.Array) -> Medoids:
    """Choose k of M candidates lazily by their nearness `[M, N]` to the items; the bound makes it a similarity."""
    first, offset = jnp.sum(item_weights[None] * nearness, axis=1), jnp.sum(item_weights) * bound
    greedy = start(jnp.full(nearness.shape[1], -jnp.inf, nearness.dtype), k)
    return lazy(greedy, bind(rows_of_matrix, nearness), item_weights, allowed, first, offset)


def lazy(
    greedy: Greedy,
    row: Rows,
    item_weights: jax.Array,
    allowed: jax.Array,
    first_gains: jax.Array,
    offset: float | jax.Array = 0.0,
) -> Medoids:
    """Choose the candidates of `naive` with fewer evaluations.

    Gains only fall, so an old gain is an upper bound. A candidate is evaluated again only if its bound is the largest.
    The offset is what all first gains lack.
    """
    queue = _queue(jnp.where(allowed, first_gains, -jnp.inf))
    step = bind(_next_best, row, item_weights, offset, size=allowed.shape[0])
    return fori_loop(0, greedy.chosen.indices.shape[0], step, (greedy, queue))[0].chosen


class _Queue(NamedTuple):
    """Upper bounds of the gains, in blocks, so that the largest one is found by looking at two short vectors.

    Attributes:
      bounds: `[blocks, width]`, with -inf for candidates that cannot be chosen.
      tops: `[blocks]`, the largest bound of each block.
      block: `[]` int32, the block of the first of the largest bounds.
      place: `[]` int32, its place there.
      fresh: `[]` bool, whether that bound is the gain of now.
    """

    bounds: jax.Array
    tops: jax.Array
    block: jax.Array
    place: jax.Array
    fresh: jax.Array


def _queue(gains: jax.Array) -> _Queue:
    width = 2 ** math.ceil(math.log2(gains.shape[0]) / 2)
    bounds = jnp.pad(gains, (0, -gains.shape[0] % width), constant_values=-jnp.inf).reshape(-1, width)
    tops = jnp.max(bounds, axis=1)
    block, place = _first_of_largest(bounds, tops)
    return _Queue(bounds, tops, block, place, block >= 0)


def _first_of_largest(bounds, tops):
    _, block = first_max(tops)
    return block, first_max(bounds[block])[1]


def _with_bound(queue, bound):
    """Replace the largest bound, and find the largest one again: if it is the same, it is fresh."""
    bounds = queue.bounds.at[queue.block, queue.place].set(bound, mode="promise_in_bounds")
    top = first_max(bounds[queue.block])[0]
    tops = queue.tops.at[queue.block].set(top, mode="promise_in_bounds")
    block, place = _first_of_largest(bounds, tops)
    return _Queue(bounds, tops, block, place, (block == queue.block) & (place == queue.place))


def _next_best(row, item_weights, offset, t, state, *, size):
    greedy, queue = state
    queue = while_loop(_is_old, bind(_evaluate, row, item_weights, greedy.best), queue)
    j = queue.block * queue.bounds.shape[1] + queue.place
    lacking = jnp.where(t == 0, offset, 0)
    queue = queue._replace(bounds=queue.bounds + lacking, tops=queue.tops + lacking)
    greedy = take(greedy, t, j, queue.tops[queue.block], row(jnp.minimum(j, size - 1)), size)
    return greedy, _with_bound(queue, -jnp.inf)._replace(fresh=t < 0)


def _is_old(queue):
    return ~queue.fresh & (queue.tops[queue.block] > -jnp.inf)


def _evaluate(row, item_weights, best, queue):
    j = queue.block * queue.bounds.shape[1] + queue.place
    return _with_bound(queue, gains_of(row(j), best, item_weights))


def stochastic(
    key: jax.Array,
    greedy: Greedy,
    rows: Rows,
    item_weights: jax.Array,
    allowed: jax.Array,
    epsilon: float,
    first_gains: jax.Array,
    offset: float | jax.Array = 0.0,
) -> Medoids:
    """Choose the best of a few random candidates in every step, with similarities `rows([r]) -> [r, N]`.

    The offset is what all first gains lack.
    """
    k, size = greedy.chosen.indices.shape[0], allowed.shape[0]
    tries = min(size, math.ceil(size / k * math.log(1 / epsilon)))
    count = jnp.sum(allowed, dtype=jnp.int32)
    pool = jnp.argsort(~allowed, stable=True).astype(jnp.int32)
    inputs = jnp.arange(k, dtype=jnp.int32), jax.random.split(key, k)
    step = bind(_best_of_few, rows, item_weights, count, first_gains, offset, tries=tries)
    return scan(step, (greedy, pool), inputs)[0][0].chosen


def _best_of_few(rows, item_weights, count, first_gains, offset, state, inputs, *, tries):
    greedy, pool = state
    t, step_key = inputs
    left = count - t
    places = jax.random.randint(step_key, (tries,), 0, jnp.maximum(left, 1))
    added = jnp.where(t == 0, 0, jnp.maximum(rows(pool[places]) - greedy.best[None], 0))
    gains = jnp.where(t == 0, first_gains[pool[places]], product(added, item_weights))
    gain, best = first_max(gains)
    gain += jnp.where(t == 0, offset, 0)
    gain, j = jnp.where(left > 0, gain, -jnp.inf), pool[places[best]]
    greedy = take(greedy, t, j, gain, rows(j), pool.shape[0])
    last = jnp.maximum(left - 1, 0)
    return (greedy, pool.at[places[best]].set(pool[last])), None


def take(greedy: Greedy, t: jax.Array, j: jax.Array, gain: jax.Array, row: jax.Array, size: int) -> Greedy:
    """Return the state with candidate j as the t-th choice; a gain of -inf means that no candidate was left."""
    (indices, gains, owners), best = greedy
    valid = gain > -jnp.inf
    closer = valid & (row > best)
    chosen = Medoids(
        indices.at[t].set(jnp.where(valid, j, size)),
        gains.at[t].set(jnp.where(valid, gain, 0)),
        jnp.where(closer, t, owners),
    )
    return Greedy(chosen, jnp.where(closer, row, best))
