"""Conditional flow matching on coupled batches: pairs of a source and a target to train on.

References:
  Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport, 2023
  (arXiv 2302.00482).
  Pooladian et al., Multisample flow matching: straightening flows with minibatch couplings, 2023 (arXiv 2304.14772).

Method: OT-CFM
Paper: 2302.00482
Experiment: ot_flow_matching, flow_matching_images
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax._checks import as_key, check_choice, check_shape
from minibatch_jax.boundaries.sampled_pairs import MODES, sample_pairs
from minibatch_jax.coupling._running import run_coupling
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.flows.conditions import condition_aware_cost
from minibatch_jax.coupling.plans import Plan, independent_plan, report_of
from minibatch_jax.devices import bound_axis, gather_rows, own_rows
from minibatch_jax.weights import Weights, matrix_of, weight_dtype


class FlowPairs(NamedTuple):
    """Pairs of a source and a target: the two ends of a flow.

    Attributes:
      x0: `[S, ...]`, sources.
      x1: `[S, ...]`, targets.
      weights: `[S]`, weight of each pair in the loss.
      source: `[S]` int32, row of each pair in the source batch.
      target: `[S]` int32, row of each pair in the target batch; gather labels and conditions with it.
      state: state of the coupling after this batch, empty if it has none; the `SolverReport` of a `Plan`.
    """

    x0: jax.Array
    x1: jax.Array
    weights: jax.Array
    source: jax.Array
    target: jax.Array
    state: Any = optax.EmptyState()


def flow_matching_pairs(
    key: jax.Array | int,
    x0: jax.Array,
    x1: jax.Array,
    coupling: optax.GradientTransformation | jax.Array | Plan | None,
    *,
    mode: str = "columns",
    cost_fn: Callable[[jax.Array, jax.Array], jax.Array] = squared_euclidean_cost,
    conditions: jax.Array | None = None,
    condition_fraction: float | jax.Array = 0.2,
    state: Any = None,
    axis_name: str | None = None,
) -> FlowPairs:
    """Pair a batch of noise with a batch of data, ready for flow matching.

    Under `shard_map` or `pmap` every device pairs its own part of the batches, unless `axis_name` is given: then all
    parts are one problem, which every device solves, and each gets its share of the pairs.

    Args:
      key: typed PRNG key or int seed.
      x0: `[B0, ...]`, sources, usually noise.
      x1: `[B1, ...]`, targets, usually data.
      coupling: a plan `[B0, B1]`, a `Plan`, or a coupling such as `couple_assignment()`, run on uniform weights. None
        pairs source i with target i, so that each source is used once; `couple_independent()` draws sources with
        replacement.
      mode: how to draw pairs from the plan, a mode of `sample_pairs`; `'columns'` keeps each target once and in order.
      cost_fn: cost `[B0, B1]` of the two batches, for a coupling that is a transformation.
      conditions: what row i of both batches, which are then equally large, was drawn with: class labels `[B]`, or
        vectors `[B, D]`, floating point. Noise and data of a pair then have the same label, or similar conditions by
        `condition_aware_cost`, so that the noise of each condition stays what it was without a coupling. Use the
        conditions of the targets, `conditions[pairs.target]`, in the model.
      condition_fraction: fraction of the pairs that compete in `condition_aware_cost`, in (0, 1], may be traced; for
        vectors. In few dimensions take less, such as 0.05, else the noise still depends on the condition.
      state: state of the coupling: the field `state` of the last result, and `coupling.init(weights)` of `[B0, B1]`
        weights at first. A coupling whose plans do not depend on earlier batches needs none.
      axis_name: axis of a `shard_map` or `pmap` over which both batches are sharded. Key, plan and state are then those
        of all devices together, the same on each, and the coupling is not wrapped in `across`.

    Returns:
      `FlowPairs(x0, x1, weights, source, target, state)`; over an axis, source and target count rows of all devices.

    Raises:
      TypeError: if the coupling is neither a plan nor a transformation, or a batch is not an array.
      ValueError: if the plan does not fit the batches, the mode is unknown, there is no coupling and the batches
        differ in size, the plans of the coupling depend on earlier batches (a moving average, potentials, a schedule)
        and no state is given, a state or conditions are given to what is no transformation, the conditions are not
        one for each row, or axes are bound but not `axis_name`.

    References:
      Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport, 2023
        (arXiv 2302.00482).
      Cheng and Schwing, The curse of conditions, 2025 (arXiv 2503.10636), for `conditions`.

    Examples:
      >>> from minibatch_jax.coupling import couple_assignment
      >>> x0, x1 = jnp.array([[0.0], [10.0]]), jnp.array([[11.0], [1.0]])
      >>> pairs = flow_matching_pairs(0, x0, x1, couple_assignment())
      >>> pairs.x0.tolist(), pairs.x1.tolist(), pairs.weights.tolist()
      ([[10.0], [0.0]], [[11.0], [1.0]], [0.5, 0.5])
      >>> labels = jnp.array([0, 1])
      >>> flow_matching_pairs(0, x0, x1, couple_assignment(), conditions=labels).x0.tolist()
      [[0.0], [10.0]]
    """
    key = as_key(key)
    for name, batch in (("x0", x0), ("x1", x1)):
        if not isinstance(batch, jax.Array | np.ndarray):
            raise TypeError(f"{name} is a {type(batch).__name__}, wanted an array; coupling comes after x0 and x1.")
    x0, x1 = jnp.asarray(x0), jnp.asarray(x1)
    axis = bound_axis(axis_name)
    if axis is not None:
        x0, x1 = gather_rows(x0, axis), gather_rows(x1, axis)
        conditions = None if conditions is None else gather_rows(jnp.asarray(conditions), axis)
    if conditions is None:
        pairs = _pairs(key, x0, x1, coupling, mode, cost_fn, state)
    else:
        cost, weights = _conditional(x0, x1, coupling, cost_fn, conditions, condition_fraction)
        pairs = _pairs(key, x0, x1, coupling, mode, lambda *batches: cost, state, weights)
    if axis is None:
        return pairs
    share = pairs.weights.shape[0] // jax.lax.axis_size(axis)
    own = jax.tree.map(lambda x: own_rows(x, share, axis), pairs._replace(state=()))
    return own._replace(state=pairs.state)


def _conditional(x0, x1, coupling, cost_fn, conditions, fraction) -> tuple[jax.Array, jax.Array | None]:
    """The cost of pairs that keep their conditions, and the weights of the pairs that may be used; None for all."""
    if not isinstance(coupling, optax.GradientTransformation):
        raise ValueError(
            f"conditions are given for a coupling of type {type(coupling).__name__}, wanted a transformation."
        )
    conditions = jnp.asarray(conditions)
    size = x1.shape[0]
    if x0.shape[0] != size:
        raise ValueError(f"conditions are given for x0 of {x0.shape[0]} and x1 of {size} items, wanted equally many.")
    cost = cost_fn(x0, x1)
    if jnp.issubdtype(conditions.dtype, jnp.integer):
        check_shape("conditions", conditions, (size,))
        alike = (conditions[:, None] == conditions[None]).astype(weight_dtype(cost.dtype))
        return cost, alike / (size * jnp.sum(alike, axis=1, keepdims=True))
    check_shape("conditions", conditions, (size, None))
    apart = squared_euclidean_cost(conditions, conditions)
    return condition_aware_cost(cost, apart, fraction=fraction), None


def _pairs(key, x0, x1, coupling, mode, cost_fn, state, weights=None) -> FlowPairs:
    if isinstance(coupling, optax.GradientTransformation):
        cost = cost_fn(x0, x1)
        if weights is None:
            weights = independent_plan(*(jnp.full(size, 1 / size, weight_dtype(cost.dtype)) for size in cost.shape))
        plan, state = run_coupling("coupling", coupling, weights, cost, state)
    elif state is not None:
        raise ValueError(f"state is given for a coupling of type {type(coupling).__name__}, wanted a transformation.")
    elif coupling is None:
        check_choice("mode", mode, MODES)
        return _one_to_one(x0, x1)
    else:
        plan = _as_plan(matrix_of(coupling))
        state = report_of(coupling) if isinstance(coupling, Plan) else optax.EmptyState()
    check_shape("coupling", plan, (x0.shape[0], x1.shape[0]))
    source, target, weights = sample_pairs(key, plan, mode=mode)
    return FlowPairs(x0[source], x1[target], weights, source, target, state)


def _one_to_one(x0: jax.Array, x1: jax.Array) -> FlowPairs:
    size = x1.shape[0]
    if x0.shape[0] != size:
        raise ValueError(f"coupling is None for x0 of {x0.shape[0]} and x1 of {size} items, wanted equally many.")
    index = jnp.arange(size, dtype=jnp.int32)
    weights = jnp.full(size, 1 / size, weight_dtype(x0.dtype))
    return FlowPairs(x0, x1, weights, index, index)


def _as_plan(coupling: object) -> Weights:
    if not isinstance(coupling, jax.Array | np.ndarray):
        hint = f", perhaps {getattr(coupling, '__name__', 'it')}(...)" if callable(coupling) else ""
        raise TypeError(f"coupling is {coupling!r}, wanted a plan or a transformation{hint}.")
    return jnp.asarray(coupling)
