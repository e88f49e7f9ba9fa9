"""Sinkhorn divergence, and a plan that is differentiable in the cost.

The entropic cost of a batch with itself is not 0, so a model trained on the entropic cost shrinks its samples. The
divergence subtracts the cost of each batch with itself. The gradient needs no derivative of the iterations: at the
optimum the derivative of the value in the cost is the plan. The plan itself is differentiated through the equations of
its marginals (implicit function theorem).

References:
  Genevay et al., Learning generative models with Sinkhorn divergences, 2018 (arXiv 1706.00292).
  Feydy et al., Interpolating between optimal transport and MMD using Sinkhorn divergences, 2019 (arXiv 1810.08278).
  Eisenberger et al., A unified framework for implicit Sinkhorn differentiation, 2022 (arXiv 2205.06688).

Method: Sinkhorn divergence
Paper: 1810.08278
Experiment: transport_gradient_flow, transport_generator
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_shape
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.entropic._implicit import implicit_plan
from minibatch_jax.coupling.entropic.balanced import sinkhorn
from minibatch_jax.coupling.plans import Plan
from minibatch_jax.weights import matrix_of, weight_dtype


def sinkhorn_divergence(
    x0: jax.Array,
    x1: jax.Array,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    *,
    epsilon: float | jax.Array,
    cost_fn: Callable[[jax.Array, jax.Array], jax.Array] = squared_euclidean_cost,
    tolerance: float | None = 1e-4,
    max_iterations: int = 1000,
) -> jax.Array:
    """Return `OT(x0, x1) - (OT(x0, x0) + OT(x1, x1)) / 2` with entropic OT; 0 for equal batches.

    Args:
      x0: `[B0, ...]`, floating point.
      x1: `[B1, ...]`, of the same item shape.
      a: `[B0]`, mass of each source; uniform with sum 1 by default. Mass 0 leaves a row out, even one of NaN.
      b: `[B1]`, mass of each target; uniform with sum 1 by default.
      epsilon: entropic regularization in the unit of the cost, > 0, may be traced; one for all three terms. The
        gradient stops here.
      cost_fn: cost `[B0, B1]` of two batches.
      tolerance: each solver stops when its marginal error is at most this; None runs exactly `max_iterations`.
      max_iterations: most iterations of each solver, static.

    Returns:
      `[]`, at least 0, differentiable in the batches and the masses.

    Raises:
      TypeError: if a batch is not floating point or a number has the wrong type.
      ValueError: if the items of the batches differ in shape, a mass does not fit its batch or epsilon is not positive.

    References:
      Feydy et al., Interpolating between optimal transport and MMD using Sinkhorn divergences, 2019 (arXiv 1810.08278).

    Examples:
      >>> x = jnp.array([[0.0], [1.0], [3.0]])
      >>> float(sinkhorn_divergence(x, x, epsilon=0.5)), float(sinkhorn_divergence(x, x + 2, epsilon=0.5)) > 3
      (0.0, True)
    """

    def value(y0, y1, mass0, mass1):
        stop = {"tolerance": tolerance, "max_iterations": max_iterations}
        return sinkhorn(cost_fn(y0, y1), mass0, mass1, epsilon=epsilon, **stop).value

    x0, x1 = _with_mass(x0, a), _with_mass(x1, b)
    return value(x0, x1, a, b) - (value(x0, x0, a, a) + value(x1, x1, b, b)) / 2


def _with_mass(x: jax.Array, mass: jax.Array | None) -> jax.Array:
    """Return the rows with 0 in those of mass 0, so that a NaN there reaches no gradient, whatever the cost."""
    if mass is None or mass.shape != x.shape[:1]:
        return x
    return jnp.where(jnp.expand_dims(mass > 0, range(1, x.ndim)), x, 0)


def differentiable_plan(cost: jax.Array, plan: jax.Array | Plan, epsilon: float | jax.Array) -> jax.Array:
    """Return a converged entropic plan with a derivative in its cost.

    A derivative solves one linear system of size B1, with the marginals fixed; so do higher ones. Where the plan is 0,
    the gradient is 0.

    Args:
      cost: `[B0, B1]`, floating point, the cost that the plan was solved for.
      plan: `[B0, B1]`, or a `Plan` such as that of `sinkhorn(cost, ...)`, converged to a small error.
      epsilon: the absolute epsilon of that plan; a constant.

    Returns:
      `[B0, B1]`, equal to `plan`, float32 (float64 if the plan is).

    Raises:
      ValueError: if the cost is not a matrix or is empty, or the plan does not have its shape.

    References:
      Eisenberger et al., A unified framework for implicit Sinkhorn differentiation, 2022 (arXiv 2205.06688).

    Examples:
      >>> def match(cost):
      ...   return differentiable_plan(cost, sinkhorn(cost, epsilon=1.0, tolerance=1e-6), 1.0)[0, 0]
      >>> [[round(x, 3) for x in row] for row in jax.grad(match)(jnp.zeros((2, 2))).tolist()]
      [[-0.062, 0.062], [0.062, -0.062]]
    """
    check_shape("cost", cost, (None, None))
    plan = matrix_of(plan)
    check_shape("plan", plan, cost.shape)
    plan = plan.astype(weight_dtype(plan.dtype))
    fixed = jax.lax.stop_gradient(plan)
    a, b = jnp.sum(fixed, axis=1), jnp.sum(fixed, axis=0)
    width = jax.lax.stop_gradient(jnp.asarray(epsilon, plan.dtype))
    cost = jnp.where(fixed > 0, cost.astype(plan.dtype), 0)
    return implicit_plan(cost, a, b, width, jnp.zeros_like(a), jnp.zeros_like(b), fixed)[2]
