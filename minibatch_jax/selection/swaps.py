"""Improve a choice of medoids by swaps: a better candidate takes the place of one that was chosen.

The greedy never revises a choice, and swaps find what it missed. The value never falls, so that the result keeps every
guarantee of the choice that it started from.

References:
  Kaufman & Rousseeuw, Clustering by means of medoids, 1987.
  Schubert & Rousseeuw, Fast and eager k-medoids clustering, 2021 (arXiv 2008.05171).

Method: swaps of medoids
Paper: 2008.05171
Experiment: subsets_of_a_pool
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_integer, check_shape, mask_or_all
from minibatch_jax._loops import bind, fori_loop, while_loop
from minibatch_jax._vector import first_max
from minibatch_jax.selection import _greedy
from minibatch_jax.selection.coresets import dense_problem


class Refined(NamedTuple):
    """A choice that swaps have improved.

    Attributes:
      indices: `[k]` int32, the choice, distinct; a place that was empty (M) is filled if a candidate is left.
      owners: `[N]` int32, place in `indices` of the candidate that represents each item best; 0 if none does.
      value: `[]`, facility-location value of the choice, never below that of the given one.
      rounds: `[]` int32, rounds through all places; the last changes nothing if it converged.
      converged: `[]` bool, whether no swap of one candidate improves the value any more.
    """

    indices: jax.Array
    owners: jax.Array
    value: jax.Array
    rounds: jax.Array
    converged: jax.Array


def refine(
    similarities: jax.Array,
    indices: jax.Array,
    *,
    item_weights: jax.Array | None = None,
    where: jax.Array | None = None,
    max_rounds: int = 10,
) -> Refined:
    """Improve a choice of k of M candidates, by the best swap for each place in turn until nothing changes.

    A swap is made if it raises the value by more than rounding; ties go to the lowest index.

    Args:
      similarities: `[M, N]`, floating point, of candidates to items, as for `facility_location`; entries below 0 or not
        finite count as 0.
      indices: `[k]` int, the choice to start from, distinct, such as `facility_location(...).indices`; M marks an empty
        place.
      item_weights: `[N]`, at least 0, weight of each item; 1 by default.
      where: `[M]` bool, which candidates may be swapped in; all by default.
      max_rounds: most rounds through the k places, static; each takes O(k M N) time.

    Returns:
      `Refined(indices, owners, value, rounds, converged)`.

    Raises:
      TypeError: if the similarities are not floating point, the indices not integers or `max_rounds` is not a static
        int.
      ValueError: if shapes do not match, k is above M or `max_rounds` is below 1.

    References:
      Schubert & Rousseeuw, Fast and eager k-medoids clustering, 2021 (arXiv 2008.05171).

    Examples:
      >>> similarities = jnp.array([[3.0, 0.0], [1.0, 2.0], [0.0, 3.0]])
      >>> found = refine(similarities, jnp.array([0, 1]))
      >>> found.indices.tolist(), float(found.value), bool(found.converged)
      ([0, 2], 6.0, True)
    """
    similarities, item_weights = dense_problem(similarities, item_weights)
    size = similarities.shape[0]
    check_shape("indices", indices, (None,))
    check_integer("indices", indices)
    k = indices.shape[0]
    check_count("the number of indices", k, size, "the number of candidates")
    check_count("max_rounds", max_rounds)
    allowed = mask_or_all("where", where, (size,))
    chosen = jnp.where((indices >= 0) & (indices < size), indices, size).astype(jnp.int32)
    problem = similarities, item_weights, allowed
    state = chosen, jnp.zeros((), jnp.int32), jnp.ones((), bool)
    goes_on = bind(_may_change, max_rounds=max_rounds)
    chosen, rounds, changed = while_loop(goes_on, bind(_swap_all, *problem), state)
    rows = jnp.where((chosen < size)[:, None], similarities[jnp.minimum(chosen, size - 1)], 0)
    value = jnp.sum(item_weights * jnp.max(rows, axis=0))
    return Refined(chosen, jnp.argmax(rows, axis=0).astype(jnp.int32), value, rounds, ~changed)


def _may_change(state, *, max_rounds):
    return state[2] & (state[1] < max_rounds)


def _swap_all(similarities, item_weights, allowed, state):
    chosen, rounds, _ = state
    swap = bind(_swap_one, similarities, item_weights, allowed)
    after = fori_loop(0, chosen.shape[0], swap, chosen)
    return after, rounds + 1, jnp.any(after != chosen)


def _swap_one(similarities, item_weights, allowed, place, chosen):
    """Put the candidate that adds most to the other places into one place, if it adds more than the present one."""
    size = similarities.shape[0]
    others = (chosen < size) & (jnp.arange(chosen.shape[0], dtype=jnp.int32) != place)
    rows = jnp.where(others[:, None], similarities[jnp.minimum(chosen, size - 1)], 0)
    best = jnp.max(rows, axis=0)
    gains = _greedy.gains_of(similarities, best, item_weights)
    taken = jnp.zeros(size, bool).at[jnp.where(others, chosen, size)].set(True, mode="drop")
    now = chosen[place]
    gain_now = jnp.where(now < size, gains[jnp.minimum(now, size - 1)], -1)
    gain, j = first_max(jnp.where(allowed & ~taken, gains, -jnp.inf))
    value = jnp.sum(item_weights * best) + jnp.maximum(gain_now, 0)
    more = gain > gain_now + 4 * jnp.finfo(gains.dtype).eps * value
    return chosen.at[place].set(jnp.where(more, j, now))
