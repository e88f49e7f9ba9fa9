"""Plans in general: the independent one, how blurred a plan is, and rounding to exact marginals.

References:
  Altschuler et al., Near-linear time approximation algorithms for optimal transport, 2017 (arXiv 1705.09634).
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_shape
from minibatch_jax.base import weight_transformation
from minibatch_jax.coupling._scaling import divide, log_where


def independent_plan(a: jax.Array, b: jax.Array) -> jax.Array:
    """Plan that pairs at random, `a b^T` divided by the mass of b: the start of every coupling.

    With weights of two selections it hands both on: a zero row or column stays zero.

    Args:
      a: `[B0]`, mass of each source.
      b: `[B1]`, mass of each target.

    Returns:
      `[B0, B1]` with row sums a; its column sums are b if both have the same mass.

    Examples:
      >>> independent_plan(jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])).tolist()
      [[0.5, 0.0], [0.5, 0.0]]
    """
    check_shape("a", a, (None,))
    check_shape("b", b, (None,))
    return a[:, None] * divide(b, jnp.sum(b))[None, :]


def couple_independent() -> optax.GradientTransformationExtraArgs:
    """Replace the weights by the independent plan of their row and column sums; keeps forbidden pairs. No signal.

    Where a pair is forbidden its share is spread over the others of the plan, so that the mass is kept.

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


def normalized_entropy(plan: jax.Array) -> jax.Array:
    """How blurred a plan is: 0 if each row (or column) has one partner, 1 if the plan is independent.

    Args:
      plan: `[B0, B1]`, at least 0, any mass.

    Returns:
      `[]`, `(H(plan) - max(H(a), H(b))) / min(H(a), H(b))` with H the entropy and a, b the marginals; for uniform
      marginals of size n it is `H(plan) / log(n) - 1`. It is 0 if a marginal is a single item.

    Examples:
      >>> float(normalized_entropy(jnp.eye(3))), round(float(normalized_entropy(jnp.ones((3, 3)))), 5)
      (0.0, 1.0)
    """
    check_shape("plan", plan, (None, None))
    row, column = _entropy(jnp.sum(plan, axis=1)), _entropy(jnp.sum(plan, axis=0))
    least = jnp.minimum(row, column)
    blur = (_entropy(plan) - jnp.maximum(row, column)) / jnp.where(least > 0, least, 1)
    return jnp.where(least > 0, jnp.clip(blur, 0, 1), 0)


def round_to_marginals(plan: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Plan with marginals a and b next to `plan`: shrink what is too much, then spread what lacks as a rank-one term.

    Args:
      plan: `[B0, B1]`, at least 0.
      a: `[B0]`, mass of each row.
      b: `[B1]`, mass of each column, of the same sum.

    Returns:
      `[B0, B1]`, its L1 distance to `plan` is at most twice that of the marginals. The rank-one term does not know
      which pairs are forbidden.

    Examples:
      >>> round_to_marginals(jnp.array([[0.75, 0.0], [0.0, 0.0]]), jnp.ones(2) / 2, jnp.ones(2) / 2).tolist()
      [[0.5, 0.0], [0.0, 0.5]]
    """
    check_shape("plan", plan, (None, None))
    check_shape("a", a, plan.shape[:1])
    check_shape("b", b, plan.shape[1:])
    plan = plan * jnp.minimum(divide(a, jnp.sum(plan, axis=1)), 1)[:, None]
    plan = plan * jnp.minimum(divide(b, jnp.sum(plan, axis=0)), 1)[None, :]
    row, column = jnp.maximum(a - jnp.sum(plan, axis=1), 0), jnp.maximum(b - jnp.sum(plan, axis=0), 0)
    return plan + row[:, None] * divide(column, jnp.sum(column))[None, :]


def _entropy(mass: jax.Array) -> jax.Array:
    mass = mass / jnp.maximum(jnp.sum(mass), jnp.finfo(mass.dtype).tiny)
    return -jnp.sum(mass * log_where(mass, mass))
