"""Condition-aware cost: pair noise with data without tying the noise to the condition of the data.

Coupling without regard to labels makes the noise given a label non-Gaussian, and a conditional model then starts from
the wrong noise. Adding the distance of the conditions to the cost keeps pairs within near conditions.

References:
  Cheng and Schwing, The curse of conditions: analyzing and improving optimal transport for conditional flow-based
  generation, 2025 (arXiv 2503.10636).
"""

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax.base import weight_dtype


def condition_aware_cost(
    cost: jax.Array, condition_cost: jax.Array, *, ratio: float | jax.Array, iterations: int = 50
) -> jax.Array:
    """`cost + w * condition_cost` with the w that leaves each noise a given share of partners.

    With items drawn together on the diagonal, w is the one for which the share of pairs that cost at most as much as
    the diagonal pair of their row is `ratio`: small ratios keep pairs within near conditions, large ones ignore them.

    Args:
      cost: `[B, B]`, floating point, such as `squared_euclidean_cost(x0, x1)`.
      condition_cost: `[B, B]`, distance between the condition drawn with each noise and that of each target; its
        diagonal is the least of each row. For discrete labels mask the weights by equal labels instead.
      ratio: wanted share of pairs, in (0, 1), may be traced.
      iterations: steps of bisection, static.

    Returns:
      `[B, B]`.

    Examples:
      >>> cost = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> condition_aware_cost(cost, 1.0 - jnp.eye(2), ratio=0.5).argmin(1).tolist()
      [0, 1]
    """
    weight = condition_weight(cost, condition_cost, ratio=ratio, iterations=iterations)
    return cost.astype(weight.dtype) + weight * condition_cost.astype(weight.dtype)


def condition_weight(
    cost: jax.Array, condition_cost: jax.Array, *, ratio: float | jax.Array, iterations: int = 50
) -> jax.Array:
    """The w of `condition_aware_cost`: doubled until few enough pairs are left, then bisected.

    Args and raises as there.

    Returns:
      `[]`, the least w found whose share is at most `ratio`; 0 if that needs none. It ends at `2**iterations` times the
      ratio of the mean costs if no w suffices.

    Examples:
      >>> float(condition_weight(jnp.array([[1.0, 0.0], [0.0, 1.0]]), 1.0 - jnp.eye(2), ratio=1.0))
      0.0
    """
    check_shape("cost", cost, (None, None))
    check_shape("condition_cost", condition_cost, cost.shape)
    check_shape("cost", cost, (cost.shape[0], cost.shape[0]))
    check_floating("cost", cost)
    check_number("ratio", ratio, 0, 1, open_low=True)
    check_count("iterations", iterations)
    dtype = weight_dtype(cost.dtype)
    cost, condition_cost = lax.stop_gradient(cost).astype(dtype), lax.stop_gradient(condition_cost).astype(dtype)
    wanted = jnp.asarray(ratio, dtype)

    def enough(w):
        total = cost + w * condition_cost
        return jnp.mean((total <= jnp.diagonal(total)[:, None]).astype(dtype)) <= wanted

    mean = jnp.mean(condition_cost)
    unit = jnp.mean(jnp.abs(cost)) / jnp.where(mean > 0, mean, 1)
    unit = jnp.where(unit > 0, unit, 1)
    high = lax.fori_loop(0, iterations, lambda _, w: jnp.where(enough(w), w, 2 * w), unit)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        good = enough(middle)
        return jnp.where(good, low, middle), jnp.where(good, middle, high)

    least = lax.fori_loop(0, iterations, halve, (jnp.zeros_like(high), high))[1]
    return jnp.where(enough(jnp.zeros_like(high)), 0, least)
