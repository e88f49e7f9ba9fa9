"""Exact partial pairing: the cheapest K one-to-one pairs, for every K in one run.

Moving only a part of the mass leaves out pairs that exist because two mini-batches happen to differ, not because the
data do. The pairing grows by one pair at a time along a shortest augmenting path that may start at any free row; each
pairing on the way is the cheapest of its size. A fraction between two sizes is the mixture of the two.

References:
  Nguyen et al., Improving mini-batch optimal transport via partial transportation, 2022 (arXiv 2108.09645).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_number, check_shape
from minibatch_jax.base import weight_transformation
from minibatch_jax.coupling._exact import allowed_pairs, augment, first_min, in_weight_dtype, is_price


class PartialAssignments(NamedTuple):
    """The cheapest pairing of each size K, with `S = min(B0, B1)`.

    Attributes:
      columns: `[S + 1, B0]` int32, entry K holds the column of each row in the cheapest K pairs, -1 for none. Where
        fewer than K pairs are allowed, the largest pairing is repeated.
      costs: `[S + 1]`, their total costs: convex in K up to the largest pairing.
      size: `[]` int32, size of the largest pairing.
    """

    columns: jax.Array
    costs: jax.Array
    size: jax.Array


def partial_assignments(cost: jax.Array, *, where: jax.Array | None = None) -> PartialAssignments:
    """Cheapest one-to-one pairing of every size.

    Args:
      cost: `[B0, B1]`, floating point, of any sign; a pair of non-finite cost (or beyond 1e19 in float32) is forbidden.
      where: `[B0, B1]` bool, which pairs are allowed; all by default.

    Returns:
      `PartialAssignments(columns, costs, size)`.

    Raises:
      TypeError: if the cost is not floating point or `where` not bool.
      ValueError: if the cost is not a matrix, is empty, or `where` has another shape.

    Examples:
      >>> found = partial_assignments(jnp.array([[1.0, 9.0], [2.0, 4.0]]))
      >>> found.columns.tolist(), found.costs.tolist()
      ([[-1, -1], [0, -1], [0, 1]], [0.0, 1.0, 5.0])
    """
    cost = in_weight_dtype(cost)
    allowed = allowed_pairs(cost, where)
    sizes = min(cost.shape)
    found = _grow(cost, allowed, jnp.int32(sizes))
    size = jnp.arange(sizes + 1, dtype=jnp.int32)
    columns = found.history[jnp.minimum(size, found.size)]
    rows = lax.broadcasted_iota(jnp.int32, columns.shape, 1)
    costs = jnp.sum(jnp.where(columns >= 0, cost[rows, columns], 0), axis=1)
    return PartialAssignments(columns, costs, found.size)


def partial_plan(cost: jax.Array, mass: float | jax.Array, weights: jax.Array) -> jax.Array:
    """Cheapest plan that moves a fraction of the mass: `P 1 <= a`, `P^T 1 <= b`, for uniform a and b.

    Args:
      cost: `[B0, B1]`, floating point.
      mass: fraction of the mass that is moved, in (0, 1], may be traced; 1 is `exact_plan`.
      weights: `[B0, B1]`, at least 0; a pair of weight 0 or of non-finite cost is forbidden.

    Returns:
      `[B0, B1]` with `mass` times the mass of the weights on allowed pairs. With S the smaller count of rows and of
      columns that are not zero, a pair weighs 1/S of the mass; if `mass * S` is not whole, two pairings are mixed.
      Less is moved if forbidden pairs allow fewer than `mass * S` pairs.

    Raises:
      ValueError: if shapes do not match or the mass is not in (0, 1].

    Examples:
      >>> partial_plan(jnp.array([[1.0, 9.0], [2.0, 4.0]]), 0.5, jnp.full((2, 2), 0.25)).tolist()
      [[0.5, 0.0], [0.0, 0.0]]
    """
    cost = in_weight_dtype(cost)
    check_shape("weights", weights, cost.shape)
    check_number("mass", mass, 0, 1, open_low=True)
    allowed = (weights > 0) & is_price(cost)
    count = jnp.minimum(*(jnp.sum(jnp.any(allowed, axis=axis)) for axis in (0, 1))).astype(weights.dtype)
    target = jnp.asarray(mass, weights.dtype) * count
    whole = jnp.floor(target * (1 + 4 * jnp.finfo(weights.dtype).eps))
    share = jnp.maximum(target - whole, 0)
    pairs = (whole + jnp.ceil(share)).astype(jnp.int32)
    found = _grow(cost.astype(weights.dtype), allowed, pairs)
    low, high = (found.history[jnp.minimum(k, found.size)] for k in (whole.astype(jnp.int32), pairs))
    column = lax.broadcasted_iota(jnp.int32, cost.shape, 1)
    low, high = ((c[:, None] == column).astype(weights.dtype) for c in (low, high))
    each = jnp.sum(jnp.where(allowed, weights, 0)) / jnp.maximum(count, 1)
    return each * ((1 - share) * low + share * high)


def couple_partial(mass: float | jax.Array) -> optax.GradientTransformationExtraArgs:
    """Keep a fraction of the mass, on the cheapest one-to-one pairs; the rest gets 0. Signal: `cost` [B0, B1].

    Weights are read as in `couple_exact`, which is `mass = 1`. Raise the fraction to 1 over the training by
    `optax.inject_hyperparams`. The rows sum to at most their share: do not normalize them.

    Args:
      mass: fraction of the mass that is moved, in (0, 1].

    Examples:
      >>> tx = couple_partial(0.5)
      >>> weights = jnp.ones((2, 2)) / 4
      >>> tx.update(weights, tx.init(weights), cost=jnp.array([[1.0, 9.0], [2.0, 4.0]]))[0].tolist()
      [[0.5, 0.0], [0.0, 0.0]]
    """
    check_number("mass", mass, 0, 1, open_low=True)

    def update(weights, state, params=None, *, cost, **extra_args):
        return partial_plan(cost, mass, weights), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


class _Growth(NamedTuple):
    """A pairing that grows, in the midst of a search for the next path.

    `dist`, `pred`, `fixed` and `w` are those of a search of `_exact`, `v` the column potentials. `nearest` and `price`
    hold for each column its cheapest free row and that cost (infinity for none), `history` the pairing of every size.
    """

    size: jax.Array
    exhausted: jax.Array
    dist: jax.Array
    pred: jax.Array
    fixed: jax.Array
    w: jax.Array
    v: jax.Array
    columns: jax.Array
    rows: jax.Array
    nearest: jax.Array
    price: jax.Array
    history: jax.Array


class _Run(NamedTuple):
    """The loop: all it needs travels in its carry, so that eager calls compile only once."""

    cost: jax.Array
    transposed: jax.Array
    pairs: jax.Array
    growth: _Growth


def _grow(cost: jax.Array, allowed: jax.Array, pairs: jax.Array) -> _Growth:
    """Add the cheapest pair by pair until there are `pairs` of them or none can be added."""
    low = jnp.min(cost, initial=jnp.inf, where=allowed)
    cost = jnp.where(allowed, cost - low, jnp.inf)
    return lax.while_loop(_is_growing, _step, _Run(cost, cost.T, pairs, _begin(_empty(cost)))).growth


def _is_growing(r: _Run) -> jax.Array:
    return (r.growth.size < r.pairs) & ~r.growth.exhausted


def _step(r: _Run) -> _Run:
    s = r.growth
    best, j = first_min(s.dist)
    owner = s.rows[j]

    def end(s):
        found = _is_growing(r) & (owner < 0) & jnp.isfinite(best)
        columns, rows = augment(jnp.where(found, j, -1), s.pred, s.columns, s.rows)
        size = s.size + found.astype(jnp.int32)
        nearest, price = _repair(r.transposed, columns, s.nearest, s.price)
        history = s.history.at[size].set(columns)
        v = s.v + jnp.minimum(s.fixed, best)
        s = s._replace(size=size, v=v, columns=columns, rows=rows, nearest=nearest, price=price, history=history)
        return _begin(s)

    def scan(s):
        h = best + s.v[j] - r.cost[owner, j]
        fixed, w = s.fixed.at[j].set(best), s.w.at[j].set(-jnp.inf)
        reached, left = (r.cost[owner] - w) + h, s.dist.at[j].set(jnp.inf)
        pred = jnp.where(reached < left, owner, s.pred)
        return s._replace(dist=jnp.minimum(left, reached), pred=pred, fixed=fixed, w=w)

    grown = lax.cond(owner < 0, end, scan, s)._replace(exhausted=jnp.isinf(best))
    return r._replace(growth=grown)


def _begin(s: _Growth) -> _Growth:
    """Start a search from all free rows at once: each column is reached from its nearest."""
    far = jnp.full_like(s.v, jnp.inf)
    return s._replace(dist=s.price - s.v, pred=s.nearest, fixed=far, w=s.v)


def _empty(cost: jax.Array) -> _Growth:
    n, m = cost.shape
    price = jnp.min(cost, axis=0)
    row = lax.broadcasted_iota(jnp.int32, (n, m), 0)
    nearest = jnp.min(jnp.where(cost == price[None, :], row, n - 1), axis=0)
    zero = 0 * nearest[0]
    columns, rows = jnp.full(n, -1, jnp.int32) + zero, jnp.full(m, -1, jnp.int32) + zero
    v = jnp.zeros(m, cost.dtype) + zero.astype(cost.dtype)
    history = jnp.full((min(n, m) + 1, n), -1, jnp.int32) + zero
    return _Growth(zero, zero > 0, v, nearest, v, v, v, columns, rows, nearest, price, history)


def _repair(
    transposed: jax.Array, columns: jax.Array, nearest: jax.Array, price: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Look again for the nearest free row of the columns whose nearest row is no longer free."""
    m = nearest.shape[0]
    index = lax.iota(jnp.int32, m)

    def first_after(j, stale):
        return jnp.min(jnp.where(stale & (index > j), index, m))

    stale = columns[nearest] >= 0

    def look(state):
        j, nearest, price = state
        low, i = first_min(jnp.where(columns < 0, transposed[j], jnp.inf))
        return first_after(j, stale), nearest.at[j].set(i), price.at[j].set(low)

    return lax.while_loop(lambda s: s[0] < m, look, (first_after(jnp.int32(-1), stale), nearest, price))[1:]
