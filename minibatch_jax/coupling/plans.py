"""What solvers return, and plans in general: the independent one, how blurred one is, rounding to exact marginals.

References:
  Altschuler et al., Near-linear time approximation algorithms for optimal transport, 2017 (arXiv 1705.09634).

Method: independent coupling
Experiment: ot_flow_matching
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_floating, check_number, check_shape
from minibatch_jax.coupling._sinkhorn_loop import divide, log_where
from minibatch_jax.weights import matrix_of, weight_dtype, weight_transformation


class Plan(NamedTuple):
    """A plan and its certificate: what every solver of a cost matrix returns.

    All fields but `value` are constants for the backward pass. The docstring of a solver says which problem `value`
    belongs to, what `error` measures, and which fields it cannot fill: those are NaN.

    Attributes:
      matrix: `[B0, B1]`, mass of each pair, at least 0.
      row_potentials: `[B0]`, price of a unit of mass of each row; 0 for a row without mass or without an allowed pair.
      column_potentials: `[B1]`, price of a unit of mass of each column, likewise.
      value: `[]`, optimum of the problem.
      error: `[]`, mass that violates the constraints, as a fraction of the mass. An exact solver reports exactly 0,
        unless some mass cannot be shipped.
      iterations: `[]` int32, how many iterations were run; an exact solver counts augmenting paths.
      converged: `[]` bool, whether `error` is at most the tolerance and all potentials are finite. Rows and columns
        that take no part have the potential 0, and a solver without potentials is judged by its error alone.
    """

    matrix: jax.Array
    row_potentials: jax.Array
    column_potentials: jax.Array
    value: jax.Array
    error: jax.Array
    iterations: jax.Array
    converged: jax.Array


class Potentials(NamedTuple):
    """The prices that define a plan too large to store; otherwise as `Plan`.

    Attributes:
      row: `[B0]`, price of a unit of mass of each row.
      column: `[B1]`, price of a unit of mass of each column.
      value: `[]`, optimum of the problem.
      error: `[]`, mass that violates the constraints, as a fraction of the mass.
      iterations: `[]` int32, how many iterations were run.
      converged: `[]` bool, whether `error` is at most the tolerance and all potentials are finite.
    """

    row: jax.Array
    column: jax.Array
    value: jax.Array
    error: jax.Array
    iterations: jax.Array
    converged: jax.Array


def plan_rows(
    potentials: Potentials, cost_block: jax.Array, epsilon: float | jax.Array, *, first_row: int | jax.Array = 0
) -> jax.Array:
    """Return some rows of the entropic plan that potentials define: `exp((f_i + g_j - cost_ij) / epsilon)`.

    So a plan too large to store is read a block of rows at a time.

    Args:
      potentials: what `sharded_sinkhorn` returned; on several devices, `row` has the rows of this device.
      cost_block: `[b, B1]`, floating point, the costs of the block; a pair whose cost is not finite has no mass.
      epsilon: the epsilon that the potentials were solved with, > 0.
      first_row: which row of the potentials the first row of the block is; may be traced, then at most B0 - b.

    Returns:
      `[b, B1]`, the mass of each pair; rows and columns that took no part are 0.

    Raises:
      TypeError: if the costs are not floating point.
      ValueError: if the shape of the costs does not fit the potentials, the block ends behind the last row, or epsilon
        is not positive.

    Examples:
      >>> found = Potentials(jnp.zeros(2), jnp.array([0.0, -jnp.inf]), *jnp.zeros(4))
      >>> plan_rows(found, jnp.zeros((1, 2)), 0.5, first_row=1).tolist()
      [[1.0, 0.0]]
    """
    check_shape("cost_block", cost_block, (None, potentials.column.shape[0]))
    check_floating("cost_block", cost_block)
    check_number("epsilon", epsilon, 0, open_low=True)
    rows, left = cost_block.shape[0], potentials.row.shape[0] - cost_block.shape[0]
    if left < 0:
        raise ValueError(f"cost_block has {rows} rows, wanted at most {left + rows} (the number of row potentials).")
    check_number("first_row", first_row, 0, left)
    row = jax.lax.dynamic_slice_in_dim(potentials.row, first_row, rows)
    total = row[:, None] + potentials.column[None, :] - cost_block.astype(row.dtype)
    has_mass = jnp.isfinite(total)
    return jnp.where(has_mass, jnp.exp(jnp.where(has_mass, total, 0) / epsilon), 0)


class SolverReport(NamedTuple):
    """State of a coupling that runs a solver: how its last plan came out. The next plan does not depend on it.

    Attributes:
      error: `[]`, mass that violates the constraints, as the solver's `Plan` has it; infinite before the first batch.
      iterations: `[]` int32, how many iterations were run.
      converged: `[]` bool, whether the solver reached its tolerance; False before the first batch.
    """

    error: jax.Array
    iterations: jax.Array
    converged: jax.Array


class WarmStart(NamedTuple):
    """State of a coupling that starts each solve from the prices of the last one.

    Attributes:
      column_potentials: `[B1]`, of the last plan; 0 before the first.
      report: how the last solve came out.
    """

    column_potentials: jax.Array
    report: SolverReport


def init_report(weights: jax.Array) -> SolverReport:
    """Return the report before the first batch: nothing has converged.

    Args:
      weights: `[B0, B1]`, as the coupling gets them.

    Returns:
      A report of infinite error.

    Examples:
      >>> report = init_report(jnp.ones((2, 2)))
      >>> float(report.error), bool(report.converged)
      (inf, False)
    """
    infinite = jnp.full((), jnp.inf, weight_dtype(weights.dtype))
    return SolverReport(infinite, jnp.zeros((), jnp.int32), jnp.zeros((), bool))


def init_warm_start(weights: jax.Array) -> WarmStart:
    """Return the state before the first batch: no prices, nothing has converged.

    Args:
      weights: `[B0, B1]`, as the coupling gets them.

    Returns:
      Prices of 0, and a report of infinite error.

    Examples:
      >>> init_warm_start(jnp.ones((2, 3))).column_potentials.tolist()
      [0.0, 0.0, 0.0]
    """
    return WarmStart(jnp.zeros(weights.shape[1], weight_dtype(weights.dtype)), init_report(weights))


def report_of(plan: Plan) -> SolverReport:
    """Return what a plan says of its solver, as constants.

    Args:
      plan: result of any solver.

    Returns:
      Its error, iterations and whether it converged.

    Examples:
      >>> from minibatch_jax.coupling import sinkhorn
      >>> bool(report_of(sinkhorn(jnp.ones((2, 2)), epsilon=1.0)).converged)
      True
    """
    error, iterations = jax.lax.stop_gradient(plan.error), jnp.asarray(plan.iterations, jnp.int32)
    return SolverReport(error, iterations, plan.converged)


def independent_plan(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return the plan that pairs at random, `a b^T` divided by the mass of b: the start of every coupling.

    Weights of two selections are handed on: a zero row or column stays zero.

    Args:
      a: `[B0]`, mass of each source, at least 0.
      b: `[B1]`, mass of each target, at least 0.

    Returns:
      `[B0, B1]`, float32 (float64 if a mass is), with row sums a; its column sums are b if both have the same mass.

    Raises:
      ValueError: if a or b is not a vector or is empty.

    Examples:
      >>> independent_plan(jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])).tolist()
      [[0.5, 0.0], [0.5, 0.0]]
    """
    check_shape("a", a, (None,))
    check_shape("b", b, (None,))
    dtype = weight_dtype(jnp.promote_types(a.dtype, b.dtype))
    a, b = a.astype(dtype), b.astype(dtype)
    return a[:, None] * divide(b, jnp.sum(b))[None, :]


def couple_independent() -> optax.GradientTransformationExtraArgs:
    """Replace the weights by the independent plan of their row and column sums. No signal.

    A pair of weight 0 is forbidden and stays 0. Its share is spread over the other pairs of the plan, so that the mass
    is kept.

    Returns:
      A transformation without state; its update returns the plan as weights.

    Examples:
      >>> tx = couple_independent()
      >>> tx.update(jnp.eye(2) / 2, tx.init(jnp.eye(2)))[0].tolist()
      [[0.5, 0.0], [0.0, 0.5]]
    """

    def update(weights, state, params=None, **extra_args):
        plan = independent_plan(jnp.sum(weights, axis=1), jnp.sum(weights, axis=0))
        plan = jnp.where(weights > 0, plan, 0)
        return plan * divide(jnp.sum(weights), jnp.sum(plan)), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def normalized_entropy(plan: jax.Array | Plan) -> jax.Array:
    """Return how blurred a plan is: 0 if each row (or column) has one partner, 1 if the plan is independent.

    It is `(H(plan) - max(H(a), H(b))) / min(H(a), H(b))` with H the entropy and a, b the marginals; for uniform
    marginals of size n this is `H(plan) / log(n) - 1`. It is 0 if a marginal is a single item.

    Args:
      plan: `[B0, B1]`, at least 0, of any mass, or a `Plan`.

    Returns:
      `[]`, in [0, 1], float32 (float64 if the plan is).

    Raises:
      ValueError: if the plan is not a matrix or is empty.

    Examples:
      >>> float(normalized_entropy(jnp.eye(3))), round(float(normalized_entropy(jnp.ones((3, 3)))), 5)
      (0.0, 1.0)
    """
    plan = matrix_of(plan)
    check_shape("plan", plan, (None, None))
    plan = plan.astype(weight_dtype(plan.dtype))
    row, column = _entropy(jnp.sum(plan, axis=1)), _entropy(jnp.sum(plan, axis=0))
    least = jnp.minimum(row, column)
    blur = (_entropy(plan) - jnp.maximum(row, column)) / jnp.where(least > 0, least, 1)
    return jnp.where(least > 0, jnp.clip(blur, 0, 1), 0)


def round_to_marginals(plan: jax.Array | Plan, a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a plan near `plan` with exact marginals: shrink what is too much, then spread what is missing.

    What is missing is added as a rank-one term, which does not know which pairs are forbidden.

    Args:
      plan: `[B0, B1]`, at least 0, or a `Plan`.
      a: `[B0]`, mass of each row.
      b: `[B1]`, mass of each column, of the same sum.

    Returns:
      `[B0, B1]`, float32 (float64 if the plan is), with row sums a and column sums b; its L1 distance to `plan` is at
      most twice that of the marginals.

    Raises:
      ValueError: if shapes do not match.

    References:
      Altschuler et al., Near-linear time approximation algorithms for optimal transport, 2017 (arXiv 1705.09634).

    Examples:
      >>> round_to_marginals(jnp.array([[0.75, 0.0], [0.0, 0.0]]), jnp.ones(2) / 2, jnp.ones(2) / 2).tolist()
      [[0.5, 0.0], [0.0, 0.5]]
    """
    plan = matrix_of(plan)
    check_shape("plan", plan, (None, None))
    check_shape("a", a, plan.shape[:1])
    check_shape("b", b, plan.shape[1:])
    dtype = weight_dtype(plan.dtype)
    plan, a, b = plan.astype(dtype), a.astype(dtype), b.astype(dtype)
    plan = plan * jnp.minimum(divide(a, jnp.sum(plan, axis=1)), 1)[:, None]
    plan = plan * jnp.minimum(divide(b, jnp.sum(plan, axis=0)), 1)[None, :]
    row, column = jnp.maximum(a - jnp.sum(plan, axis=1), 0), jnp.maximum(b - jnp.sum(plan, axis=0), 0)
    return plan + row[:, None] * divide(column, jnp.sum(column))[None, :]


def _entropy(mass: jax.Array) -> jax.Array:
    mass = mass / jnp.maximum(jnp.sum(mass), jnp.finfo(mass.dtype).tiny)
    return -jnp.sum(mass * log_where(mass, mass))
