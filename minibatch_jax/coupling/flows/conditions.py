"""Condition-aware cost: pair noise with data without tying the noise to the condition of the data.

A coupling that ignores labels makes the noise of each label non-Gaussian, and a conditional model then starts from the
wrong noise. Adding the distance between conditions to the cost keeps the partners close in their conditions.

References:
  Cheng and Schwing, The curse of conditions: analyzing and improving optimal transport for conditional flow-based
  generation, 2025 (arXiv 2503.10636).

Method: condition-aware coupling (C2OT)
Paper: 2503.10636
Experiment: conditional_moons, conditional_images
"""

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax.weights import weight_dtype


def condition_aware_cost(
    cost: jax.Array, condition_cost: jax.Array, *, fraction: float | jax.Array, max_iterations: int = 50
) -> jax.Array:
    """Return `cost + w * condition_cost`, with the w that leaves each noise a given fraction of partners.

    The diagonal holds the items that were drawn together. A pair competes if it costs at most as much as the diagonal
    pair of its row; w is chosen so that the fraction `fraction` of all pairs competes. Small fractions keep partners
    close in their conditions, large ones ignore the conditions: 0.2 is for conditions of many dimensions, 0.05 for few.
    The gradient takes w as a constant.

    Args:
      cost: `[B, B]`, floating point, such as `squared_euclidean_cost(x0, x1)`.
      condition_cost: `[B, B]`, distance between the condition drawn with each noise and that of each target; its
        diagonal is the least of each row. For discrete labels mask the weights by equal labels instead.
      fraction: wanted fraction of competing pairs, in (0, 1], may be traced.
      max_iterations: steps of the search for an upper bound, and of the bisection after it, static.

    Returns:
      `[B, B]`, float32 (float64 if the cost is).

    Raises:
      TypeError: if the cost is not floating point or a number has the wrong type.
      ValueError: if the costs are not square and of one shape, or a number is out of range.

    References:
      Cheng and Schwing, The curse of conditions, 2025 (arXiv 2503.10636).

    Examples:
      >>> cost = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> condition_aware_cost(cost, 1.0 - jnp.eye(2), fraction=0.5).argmin(1).tolist()
      [0, 1]
    """
    weight = condition_weight(cost, condition_cost, fraction=fraction, max_iterations=max_iterations)
    return cost.astype(weight.dtype) + weight * condition_cost.astype(weight.dtype)


def condition_weight(
    cost: jax.Array, condition_cost: jax.Array, *, fraction: float | jax.Array, max_iterations: int = 50
) -> jax.Array:
    """Return the w of `condition_aware_cost`, by doubling it until few enough pairs compete and then bisecting.

    It is a constant for the backward pass.

    The diagonal holds the items that were drawn together. A pair competes if `cost + w * condition_cost` is at most
    that of the diagonal pair of its row.

    Args:
      cost: `[B, B]`, floating point, such as `squared_euclidean_cost(x0, x1)`.
      condition_cost: `[B, B]`, distance between the condition drawn with each noise and that of each target; its
        diagonal is the least of each row.
      fraction: wanted fraction of competing pairs, in (0, 1], may be traced.
      max_iterations: steps of the search for an upper bound, and of the bisection after it, static.

    Returns:
      `[]`, the least w found for which the fraction of competing pairs is at most `fraction`; 0 where w = 0 suffices.
      If no w suffices, the result is `2**iterations` times the quotient of the mean costs.

    Raises:
      TypeError: if the cost is not floating point or a number has the wrong type.
      ValueError: if the costs are not square and of one shape, or a number is out of range.

    References:
      Cheng and Schwing, The curse of conditions, 2025 (arXiv 2503.10636).

    Examples:
      >>> float(condition_weight(jnp.array([[1.0, 0.0], [0.0, 1.0]]), 1.0 - jnp.eye(2), fraction=1.0))
      0.0
    """
    check_shape("cost", cost, (None, None))
    check_shape("condition_cost", condition_cost, cost.shape)
    check_shape("cost", cost, (cost.shape[0], cost.shape[0]))
    check_floating("cost", cost)
    check_number("fraction", fraction, 0, 1, open_low=True)
    check_count("max_iterations", max_iterations)
    dtype = weight_dtype(cost.dtype)
    cost, condition_cost = lax.stop_gradient(cost).astype(dtype), lax.stop_gradient(condition_cost).astype(dtype)
    enough = bind(_few_compete, cost, condition_cost, lax.stop_gradient(jnp.asarray(fraction, dtype)))
    mean = jnp.mean(condition_cost)
    unit = jnp.mean(jnp.abs(cost)) / jnp.where(mean > 0, mean, 1)
    unit = jnp.where(unit > 0, unit, 1)
    high = fori_loop(0, max_iterations, bind(_double, enough), unit)
    least = fori_loop(0, max_iterations, bind(_halve, enough), (jnp.zeros_like(high), high))[1]
    return jnp.where(enough(jnp.zeros_like(high)), 0, least)


def _few_compete(cost, condition_cost, wanted, w):
    total = cost + w * condition_cost
    return jnp.mean((total <= jnp.diagonal(total)[:, None]).astype(cost.dtype)) <= wanted


def _double(enough, _, w):
    return jnp.where(enough(w), w, 2 * w)


def _halve(enough, _, bounds):
    low, high = bounds
    middle = (low + high) / 2
    good = enough(middle)
    return jnp.where(good, low, middle), jnp.where(good, middle, high)
