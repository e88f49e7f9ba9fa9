"""Exact partial pairing: the cheapest K one-to-one pairs, for every K in one run.

Two mini-batches differ by chance even where the data do not. Moving only a part of the mass leaves out the pairs that
this difference forces. The pairing grows by one pair at a time, along a shortest augmenting path that may start at any
free row, and each pairing on the way is the cheapest of its size. The search state is a forest of shortest-path trees.
A new pair invalidates one tree; the rest is reused. A fraction between two sizes is a mixture of the two pairings. On a
TPU all steps of a float32 problem of at most 1,024 rows and columns run in one kernel; no TPU has run it yet.
Unequal masses are transported exactly, with a further row and column for what is not moved.

References:
  Nguyen et al., Improving mini-batch optimal transport via partial transportation, 2022 (arXiv 2108.09645).

Method: m-POT (partial transport)
Paper: 2108.09645
Experiment: partial_transport, speed partial, domain_adaptation, transport_gradient_flow, transport_generator
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_number, check_shape
from minibatch_jax.coupling._certificates import has_converged
from minibatch_jax.coupling._problem import allowed_pairs, fixed_cost, is_price, kept_weights, masses
from minibatch_jax.coupling.exact._growth import grow
from minibatch_jax.coupling.exact.transports import transport
from minibatch_jax.coupling.plans import Plan, init_report, report_of
from minibatch_jax.weights import weight_dtype, weight_transformation


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
    """Return the cheapest one-to-one pairing of every size.

    The results are constants for the backward pass.

    Args:
      cost: `[B0, B1]`, floating point, of any sign; a pair of non-finite cost (or beyond 1e19 in float32) is forbidden.
      where: `[B0, B1]` bool, which pairs are allowed; all by default.

    Returns:
      `PartialAssignments(columns, costs, size)`.

    Raises:
      TypeError: if the cost is not floating point, or `where` not bool.
      ValueError: if the cost is not a matrix, is empty, or `where` has another shape.

    References:
      Nguyen et al., Improving mini-batch optimal transport via partial transportation, 2022 (arXiv 2108.09645).

    Examples:
      >>> found = partial_assignments(jnp.array([[1.0, 9.0], [2.0, 4.0]]))
      >>> found.columns.tolist(), found.costs.tolist()
      ([[-1, -1], [0, -1], [0, 1]], [0.0, 1.0, 5.0])
    """
    cost = fixed_cost(cost)
    allowed = allowed_pairs(cost, where, is_price)
    sizes = min(cost.shape)
    history, largest = grow(cost, allowed, jnp.int32(sizes))
    columns = history[jnp.minimum(jnp.arange(sizes + 1, dtype=jnp.int32), largest)]
    rows = lax.broadcasted_iota(jnp.int32, columns.shape, 1)
    costs = jnp.sum(jnp.where(columns >= 0, cost[rows, columns], 0), axis=1)
    return PartialAssignments(columns, costs, largest)


def partial_plan(
    cost: jax.Array,
    fraction: float | jax.Array,
    weights: jax.Array | None = None,
    *,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
) -> Plan:
    """Return the cheapest plan that moves a fraction of the mass: `P 1 <= a`, `P^T 1 <= b`.

    It minimizes `sum(P * cost)`.

    With weights the limits a and b are uniform. With S the smaller count of rows and of columns that have an allowed
    pair, a pair weighs 1/S of the mass; if `fraction * S` is not whole, the cheapest pairings of the two neighboring
    sizes are mixed. This is the fast way, of at most S searches.

    With a or b the limits are these masses, and the plan is that of `transport` with one more row and column, which
    take what stays: a search for each of about B0 + B1 paths.

    Args:
      cost: `[B0, B1]`, floating point, of any sign; a pair of non-finite cost is forbidden.
      fraction: fraction of the mass that is moved, in (0, 1], may be traced; 1 is `assignment_plan` for weights. With a
        or b it is a fraction of `min(sum(a), sum(b))`.
      weights: `[B0, B1]`, at least 0; a pair of weight 0 is forbidden. All equal, of sum 1, by default.
      a: `[B0]`, most mass of each row, at least 0; uniform with sum 1 by default if b is given.
      b: `[B1]`, most mass of each column, at least 0; uniform with sum 1 by default if a is given. The sums may differ,
        and a row or column without an allowed pair has no mass.

    Returns:
      `Plan(matrix, row_potentials, column_potentials, value, error, iterations, converged)`. `matrix` has `fraction`
      times the mass, and less if forbidden pairs do not permit it: `error` is the fraction that is missing. `value` is
      differentiable in the cost, the weights or masses, and `fraction`. It is piecewise linear in each of them, so that
      second derivatives in one of them are 0.

      With weights `matrix` is differentiable in the weights and `fraction`, `iterations` counts the pairs of the larger
      pairing, and the potentials are NaN: this solver keeps none.

      With a or b `matrix` is constant for the backward pass and `iterations` counts paths. The potentials u and v are
      at most 0, and 0 where mass stays: with the highest `u_i + v_j - cost_ij` called t, they prove that the plan is
      the cheapest, because all its pairs have it. Where a and b have the same mass, both share its slope. Second
      derivatives in the cost and a mass are those of `transport`, NaN where the plan has too few pairs.

    Raises:
      TypeError: if the cost or a mass is not floating point.
      ValueError: if shapes do not match, the fraction is not in (0, 1], weights come with masses, or concrete masses
        are negative or not finite.

    References:
      Nguyen et al., Improving mini-batch optimal transport via partial transportation, 2022 (arXiv 2108.09645).
      Chapel et al., Partial optimal transport with applications on positive-unlabeled learning, 2020
        (arXiv 2002.08276).

    Examples:
      >>> partial_plan(jnp.array([[1.0, 9.0], [2.0, 4.0]]), 0.5, jnp.full((2, 2), 0.25)).matrix.tolist()
      [[0.5, 0.0], [0.0, 0.0]]
      >>> a, b = jnp.array([0.25, 0.75]), jnp.array([0.5, 0.5])
      >>> partial_plan(jnp.array([[1.0, 9.0], [2.0, 4.0]]), 0.5, a=a, b=b).matrix.tolist()
      [[0.25, 0.0], [0.25, 0.0]]
    """
    check_number("fraction", fraction, 0, 1, open_low=True)
    if a is None and b is None:
        return _of_equal_masses(cost, fraction, weights)
    if weights is not None:
        raise ValueError(f"weights has shape {list(jnp.shape(weights))}, wanted None where a or b is given.")
    return _of_masses(cost, fraction, *masses(cost, a, b))


def couple_partial(fraction: float | jax.Array) -> optax.GradientTransformationExtraArgs:
    """Keep a fraction of the mass, on the cheapest one-to-one pairs; the rest gets 0. Signal: `cost` [B0, B1].

    A pair of weight 0 or of non-finite cost is forbidden; the other values of the incoming weights only give the total
    mass, as in `couple_assignment`, which is `fraction = 1`. Raise the fraction to 1 over the training by
    `optax.inject_hyperparams`. A row sums to at most its share of the mass: do not normalize the rows.

    Args:
      fraction: fraction of the mass that is moved, in (0, 1].

    Returns:
      A transformation; its update takes the signal `cost` `[B0, B1]` and returns the plan as weights and a
      `SolverReport` as state: whether the solver of this batch converged, and its error.

    Raises:
      TypeError: on update, if the cost is not floating point.
      ValueError: if the mass is not in (0, 1]; on update, if the cost does not have the shape of the weights.

    References:
      Nguyen et al., Improving mini-batch optimal transport via partial transportation, 2022 (arXiv 2108.09645).

    Examples:
      >>> tx = couple_partial(0.5)
      >>> weights = jnp.ones((2, 2)) / 4
      >>> tx.update(weights, tx.init(weights), cost=jnp.array([[1.0, 9.0], [2.0, 4.0]]))[0].tolist()
      [[0.5, 0.0], [0.0, 0.0]]
    """
    check_number("fraction", fraction, 0, 1, open_low=True)

    def update(weights, state, params=None, *, cost, **extra_args):
        plan = partial_plan(fixed_cost(cost).astype(weights.dtype), fraction, weights)
        return plan.matrix, report_of(plan)

    return weight_transformation(init_report, update)


def _of_equal_masses(cost: jax.Array, fraction: float | jax.Array, weights: jax.Array | None) -> Plan:
    """Mix the cheapest pairings of two neighboring sizes."""
    live, cost = cost, fixed_cost(cost)
    if weights is None:
        weights = jnp.full(cost.shape, 1 / cost.size, cost.dtype)
    check_shape("weights", weights, cost.shape)
    weights = weights.astype(weight_dtype(weights.dtype))
    kept = kept_weights(weights, cost, is_price)
    allowed = kept > 0
    count = jnp.minimum(*(jnp.sum(jnp.any(allowed, axis=axis)) for axis in (0, 1))).astype(cost.dtype)
    target = jnp.asarray(fraction, cost.dtype) * count
    whole = jnp.floor(target * (1 + 4 * jnp.finfo(cost.dtype).eps))
    share = jnp.maximum(target - whole, 0)
    few, many = whole.astype(jnp.int32), (whole + jnp.ceil(share)).astype(jnp.int32)
    history, largest = grow(cost, allowed, many)
    found = [jnp.minimum(size, largest) for size in (few, many)]
    column = lax.broadcasted_iota(jnp.int32, cost.shape, 1)
    low, high = ((history[size][:, None] == column).astype(weights.dtype) for size in found)
    each = jnp.sum(kept) / jnp.maximum(count, 1).astype(weights.dtype)
    part = share.astype(weights.dtype)
    matrix = each * ((1 - part) * low + part * high)
    value = jnp.sum(matrix.astype(cost.dtype) * jnp.where(matrix > 0, live.astype(cost.dtype), 0))
    missing = (1 - share) * (few - found[0]).astype(cost.dtype) + share * (many - found[1]).astype(cost.dtype)
    error = lax.stop_gradient(missing / jnp.where(target > 0, target, 1))
    u, v = (jnp.full(size, jnp.nan, cost.dtype) for size in cost.shape)
    return Plan(matrix, u, v, value, error, largest, has_converged(error, 0))


def _of_masses(cost: jax.Array, fraction: float | jax.Array, a: jax.Array, b: jax.Array) -> Plan:
    """Transport with a last row and column at cost 0, which take what is not moved."""
    allowed = is_price(fixed_cost(cost))
    a, b = (jnp.where(jnp.any(allowed, axis=axis), mass, 0) for axis, mass in ((1, a), (0, b)))
    mass_a, mass_b = jnp.sum(a), jnp.sum(b)
    moved = jnp.asarray(fraction, a.dtype) * jnp.minimum(mass_a, mass_b)
    rest_a, rest_b = (jnp.maximum(mass - moved, 0) for mass in (mass_a, mass_b))
    padded = jnp.pad(cost.astype(a.dtype), ((0, 1), (0, 1)))
    where = jnp.pad(allowed, ((0, 1), (0, 1)), constant_values=True).at[-1, -1].set(False)
    full = transport(padded, jnp.append(a, rest_b), jnp.append(b, rest_a), where=where)
    matrix, asked = full.matrix[:-1, :-1], lax.stop_gradient(moved)
    missing = (asked - jnp.sum(matrix)) / jnp.where(asked > 0, asked, 1)
    rounding = 4 * sum(cost.shape) * jnp.finfo(a.dtype).eps * jnp.maximum(mass_a, mass_b)
    error = jnp.where(missing * asked <= lax.stop_gradient(rounding), 0, missing)
    u, v = full.row_potentials, full.column_potentials
    u, v = jnp.where(a > 0, u[:-1] + v[-1], 0), jnp.where(b > 0, v[:-1] + u[-1], 0)
    return Plan(matrix, u, v, full.value, error, full.iterations, has_converged(error, 0, u, v))
