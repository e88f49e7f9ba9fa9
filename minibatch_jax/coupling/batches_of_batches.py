"""Batch of mini-batches: optimal transport between mini-batches says how much each pair of mini-batches counts.

Averaging over all k^2 pairs of mini-batches (m-OT) couples every source batch with every target batch. BoMb-OT solves
a k x k problem on the costs of the pairs and keeps the cheap pairs. The outer coupling is any coupling of this package:

- `couple_assignment()`: BoMb-OT, k pairs of weight 1/k;
- `couple_sinkhorn(epsilon)`: the entropic form of BoMb-OT, which tends to m-OT as epsilon grows;
- `couple_independent()`: m-OT over all pairs, or over batch i with batch i if the weights are the diagonal.

References:
  Nguyen et al., On transportation of mini-batches: a hierarchical approach, 2022 (arXiv 2102.05912).

Method: BoMb-OT
Paper: 2102.05912
Experiment: hierarchical_transport, color_transfer, domain_adaptation
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax.coupling._running import check_keeps_nothing, run_coupling
from minibatch_jax.coupling.plans import Plan
from minibatch_jax.weights import matrix_of, weight_dtype


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
      weights: `[k0, k1]`, incoming weights of the pairs; uniform by default. A pair of weight 0 is never used.
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
    check_shape("weights", pairs, (k0, k1))
    fixed = lax.stop_gradient(cost)
    item_weights = jnp.full((m0, m1), 1 / (m0 * m1), dtype)
    check_keeps_nothing("inner", inner, item_weights, "none: there is no order among the pairs of mini-batches")
    plans, inner_state = jax.vmap(jax.vmap(lambda c: run_coupling("inner", inner, item_weights, c)))(fixed)
    costs = jnp.sum(plans * _priced(plans, fixed), axis=(2, 3))
    pair_weights, outer_state = run_coupling("outer", outer, pairs, costs, outer_state)
    plans = pair_weights[:, :, None, None] * plans
    value = _value(plans, _priced(plans, cost))
    return HierarchicalPlan(plans, pair_weights, costs, value, outer_state, inner_state)


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
