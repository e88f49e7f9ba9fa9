"""Batch of mini-batches: optimal transport between mini-batches says how much each pair of mini-batches counts.

Averaging over all k^2 pairs of mini-batches (m-OT) couples every source batch with every target batch. BoMb-OT solves
a k x k problem on the costs of the pairs and keeps the cheap pairs. `hierarchical_plan` returns the plans of a stack of
costs, `couple_hierarchical` is the transformation: it cuts a batch of both sides into k mini-batches each, and its
weights go to `value_and_grad`. The outer coupling is any coupling of this package:

- `couple_assignment()`: BoMb-OT, k pairs of weight 1/k;
- `couple_sinkhorn(epsilon)`: the entropic form of BoMb-OT, which tends to m-OT as epsilon grows;
- `couple_independent()`: m-OT over all pairs, or over batch i with batch i if the weights are the diagonal;
- none, in `couple_hierarchical`: m-OT over batch i with batch i, for k problems in place of k^2.

References:
  Nguyen et al., On transportation of mini-batches: a hierarchical approach, 2022 (arXiv 2102.05912).

Method: BoMb-OT
Paper: 2102.05912
Experiment: hierarchical_transport, color_transfer, domain_adaptation, transport_gradient_flow, transport_generator
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_count, check_floating, check_shape
from minibatch_jax.coupling._problem import fixed_cost
from minibatch_jax.coupling._running import check_keeps_nothing, run_coupling
from minibatch_jax.coupling._sinkhorn_loop import divide
from minibatch_jax.coupling.plans import Plan
from minibatch_jax.weights import matrix_of, weight_dtype, weight_transformation

_NO_ORDER = "none: there is no order among the pairs of mini-batches"


class HierarchicalPlan(NamedTuple):
    """Plans of all pairs of mini-batches and the weights of the pairs.

    Everything but `value` is constant for the backward pass, and the gradient of `value` in the cost is `plans`. With
    exact couplings it is the gradient of the optimum (envelope theorem). Entropic plans change with the cost, which
    this gradient leaves out. A second derivative raises NotImplementedError: with exact couplings, pass
    `jax.lax.stop_gradient(cost)` and take `jnp.sum(found.plans * cost)` for `value`. To train in two passes, compute
    the costs without gradients first, and then only the pairs that `sample_pairs(0, outer, mode="permutation")` lists:
    k of them if the outer coupling is exact.

    Attributes:
      plans: `[k0, k1, m0, m1]`, inner plan of each pair times the weight of the pair.
      outer: `[k0, k1]`, weight of each pair, with sum 1.
      costs: `[k0, k1]`, what the inner plan of each pair costs.
      value: `[]`, `sum(plans * cost)`, differentiable once in the cost.
      outer_state: state of the outer coupling after this call, empty if it has none.
      inner_state: what the inner coupling reports, with the axes `[k0, k1]` in front, empty if it has no state.
    """

    plans: jax.Array
    outer: jax.Array
    costs: jax.Array
    value: jax.Array
    outer_state: Any
    inner_state: Any


def hierarchical_plan(
    cost: jax.Array,
    inner: optax.GradientTransformation,
    outer: optax.GradientTransformation,
    weights: jax.Array | None = None,
    *,
    outer_state: Any = None,
) -> HierarchicalPlan:
    """Couple mini-batches, and the items of each pair of mini-batches.

    Args:
      cost: `[k0, k1, m0, m1]`, floating point; block (u, v) is the cost of source batch u and target batch v.
      inner: coupling of items: `couple_assignment()`, `couple_partial(fraction)`, ... It runs on all pairs of
        mini-batches at once, so its plans must not depend on earlier batches.
      outer: coupling of mini-batches; the unit of its epsilon is the cost of a pair.
      weights: `[k0, k1]`, incoming weights of the pairs of mini-batches, or `[k0, k1, m0, m1]`, of the pairs of items;
        uniform by default. A pair of weight 0 is never used.
      outer_state: state of the outer coupling: the field `outer_state` of the last result, and `outer.init(weights)` at
        first. A coupling whose plans do not depend on earlier batches needs none.

    Returns:
      `HierarchicalPlan(plans, outer, costs, value, outer_state, inner_state)`.

    Raises:
      NotImplementedError: if the cost is differentiated twice.
      TypeError: if the cost is not floating point.
      ValueError: if the cost is not of rank 4, the weights do not match, or plans depend on earlier batches: those of
        the inner coupling, or those of the outer one when no state is given.

    References:
      Nguyen et al., On transportation of mini-batches: a hierarchical approach, 2022 (arXiv 2102.05912).

    Examples:
      >>> from minibatch_jax.coupling import couple_assignment
      >>> cost = jnp.array([[5.0, 1.0], [2.0, 9.0]])[:, :, None, None]
      >>> found = hierarchical_plan(cost, couple_assignment(), couple_assignment())
      >>> found.outer.tolist(), float(found.value)
      ([[0.0, 0.5], [0.5, 0.0]], 1.5)
    """
    check_shape("cost", cost, (None,) * 4)
    check_floating("cost", cost)
    k0, k1, m0, m1 = cost.shape
    dtype = weight_dtype(cost.dtype)
    pairs = jnp.full((k0, k1), 1 / (k0 * k1), dtype) if weights is None else weights.astype(dtype)
    if pairs.ndim == 4:
        check_shape("weights", pairs, cost.shape)
        pairs, item_weights = _split(pairs)
    else:
        check_shape("weights", pairs, (k0, k1))
        item_weights = jnp.full(cost.shape, 1 / (m0 * m1), dtype)
    fixed = lax.stop_gradient(cost)
    check_keeps_nothing("inner", inner, item_weights[0, 0], _NO_ORDER)
    plans, inner_state = jax.vmap(jax.vmap(lambda w, c: run_coupling("inner", inner, w, c)))(item_weights, fixed)
    costs = jnp.sum(plans * _priced(plans, fixed), axis=(2, 3))
    pair_weights, outer_state = run_coupling("outer", outer, pairs, costs, outer_state)
    plans = pair_weights[:, :, None, None] * plans
    value = _value(plans, _priced(plans, cost))
    return HierarchicalPlan(plans, pair_weights, costs, value, outer_state, inner_state)


def couple_hierarchical(
    inner: optax.GradientTransformation, outer: optax.GradientTransformation | None = None, *, mini_batches: int
) -> optax.GradientTransformationExtraArgs:
    """Couple mini-batches of a batch, and the items of coupled mini-batches. Signal: `cost` [B0, B1].

    Consecutive rows make a source mini-batch, consecutive columns a target mini-batch, k of each; shuffle before. The
    outer coupling sees what the inner plan of each pair costs. A pair of weight 0 is forbidden.

    Args:
      inner: coupling of items, such as `couple_assignment()` or `couple_partial(fraction)`. Its plans must not depend
        on earlier batches.
      outer: coupling of mini-batches: `couple_assignment()` for BoMb-OT, `couple_sinkhorn(epsilon)` for its entropic
        form, `couple_independent()` for the mean over all k^2 pairs. By default mini-batch i is coupled with
        mini-batch i only: k problems in place of k^2.
      mini_batches: k, static.

    Returns:
      A transformation; its update takes the signal `cost` `[B0, B1]` and returns the plan as weights. Its state is that
      of the outer coupling, empty if there is none.

    Raises:
      TypeError: on update, if the cost is not floating point.
      ValueError: if `mini_batches` is less than 1; on init, if it does not divide the rows and the columns, or if plans
        of the inner coupling depend on earlier batches; on update, if the cost does not have the shape of the weights.

    References:
      Nguyen et al., On transportation of mini-batches: a hierarchical approach, 2022 (arXiv 2102.05912).

    Examples:
      >>> from minibatch_jax.coupling import couple_assignment
      >>> tx = couple_hierarchical(couple_assignment(), couple_assignment(), mini_batches=2)
      >>> weights = jnp.ones((2, 2)) / 4
      >>> tx.update(weights, tx.init(weights), cost=jnp.array([[5.0, 1.0], [2.0, 9.0]]))[0].tolist()
      [[0.0, 0.5], [0.5, 0.0]]
    """
    k = mini_batches
    check_count("mini_batches", k)

    def init(weights):
        rows, columns = weights.shape
        if rows % k or columns % k:
            raise ValueError(f"mini_batches is {k}, wanted a divisor of the {rows} rows and of the {columns} columns.")
        check_keeps_nothing("inner", inner, weights[: rows // k, : columns // k], _NO_ORDER)
        return optax.EmptyState() if outer is None else outer.init(jnp.zeros((k, k), weights.dtype))

    def update(weights, state, params=None, *, cost, **extra_args):
        check_shape("cost", cost, weights.shape)
        blocks, costs = _cut(weights, k), _cut(fixed_cost(cost).astype(weights.dtype), k)
        if outer is None:
            return _joined(_of_equals(inner, blocks, costs)), state
        found = hierarchical_plan(costs, inner, outer, blocks, outer_state=state)
        return _joined(found.plans), found.outer_state

    return weight_transformation(init, update)


def scatter_plans(
    plans: jax.Array | Plan, source_indices: jax.Array, target_indices: jax.Array, shape: tuple[int, int]
) -> jax.Array:
    """Add up the plans of all pairs of mini-batches to one plan over the data.

    Args:
      plans: `[k0, k1, m0, m1]`, weighted, as `hierarchical_plan` returns them, or a `Plan` of such a stack.
      source_indices: `[k0, m0]` int, data index of each item of each source batch.
      target_indices: `[k1, m1]` int, data index of each item of each target batch.
      shape: `(n0, n1)`, numbers of source and target items in the data, static.

    Returns:
      `[n0, n1]`, float32 (float64 if the plans are), with the mass of the plans.

    Raises:
      ValueError: if the plans are not of rank 4 or the indices do not match.

    Examples:
      >>> scatter_plans(jnp.ones((1, 1, 1, 2)) / 2, jnp.array([[2]]), jnp.array([[0, 1]]), (3, 2)).tolist()
      [[0.0, 0.0], [0.0, 0.0], [0.5, 0.5]]
    """
    plans = matrix_of(plans)
    check_shape("plans", plans, (None,) * 4)
    check_shape("source_indices", source_indices, (plans.shape[0], plans.shape[2]))
    check_shape("target_indices", target_indices, (plans.shape[1], plans.shape[3]))
    rows = jnp.broadcast_to(source_indices[:, None, :, None], plans.shape)
    columns = jnp.broadcast_to(target_indices[None, :, None, :], plans.shape)
    dtype = weight_dtype(plans.dtype)
    return jnp.zeros(shape, dtype).at[rows, columns].add(plans.astype(dtype))


def _cut(matrix: jax.Array, k: int) -> jax.Array:
    """Blocks `[k, k, B0 / k, B1 / k]` of a matrix."""
    rows, columns = matrix.shape
    return matrix.reshape(k, rows // k, k, columns // k).transpose(0, 2, 1, 3)


def _joined(blocks: jax.Array) -> jax.Array:
    k0, k1, m0, m1 = blocks.shape
    return blocks.transpose(0, 2, 1, 3).reshape(k0 * m0, k1 * m1)


def _split(weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mass of each pair of mini-batches, and the weights of its items, of mass 1 or all 0."""
    pairs = jnp.sum(weights, axis=(-2, -1))
    return pairs, divide(weights, jnp.broadcast_to(pairs[..., None, None], weights.shape))


def _of_equals(inner: optax.GradientTransformation, weights: jax.Array, cost: jax.Array) -> jax.Array:
    """Plans of mini-batch i with mini-batch i, 0 for the other pairs."""
    at = lax.iota(jnp.int32, weights.shape[0])
    pairs, item_weights = _split(weights[at, at])
    plans, _ = jax.vmap(lambda w, c: run_coupling("inner", inner, w, c))(item_weights, cost[at, at])
    share = divide(pairs, jnp.sum(pairs)) * jnp.sum(weights)
    return jnp.zeros_like(weights).at[at, at].set(share[:, None, None] * plans)


@jax.custom_jvp
def _value(plans: jax.Array, cost: jax.Array) -> jax.Array:
    return jnp.sum(plans * cost)


@_value.defjvp
def _value_tangent(primals, tangents):
    plans, cost = primals
    return _value(plans, cost), jnp.sum(_plans_once(plans, cost) * tangents[1])


@jax.custom_jvp
def _plans_once(plans: jax.Array, cost: jax.Array) -> jax.Array:
    return plans


@_plans_once.defjvp
def _no_second_derivative(primals, tangents):
    raise NotImplementedError(
        "The value of hierarchical_plan is differentiated twice, wanted once: its plans are constants. With exact "
        "couplings pass jax.lax.stop_gradient(cost) and take jnp.sum(found.plans * cost), whose second derivative is "
        "right; for entropic plans add up sinkhorn(...).value."
    )


def _priced(plans: jax.Array, cost: jax.Array) -> jax.Array:
    """Return the costs where the plans are not 0, and 0 elsewhere: the cost of a forbidden pair may be infinite."""
    return jnp.where(plans > 0, cost.astype(plans.dtype), 0)
