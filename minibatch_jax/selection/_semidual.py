"""The dual of entropic transport in the potentials of the targets alone, summed over blocks of candidates.

At potentials g of the targets, a candidate of mass `a_i` sends each target the share
`p_ij = softmax_j((g_j - cost_ij) / epsilon)`, and its own potential is
`f_i = -epsilon * logsumexp_j((g_j - cost_ij) / epsilon)`. The dual `sum(a * f) + sum(b * g)` is concave in g, its
gradient is `b - sum_i a_i p_i`, and its Hessian `[M, M]`. All three are sums over candidates: an iteration of Newton's
method needs one pass over the candidates, and no array `[N, M]`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax.geometry import product

FIRST_DAMPING, LEAST_DAMPING, STUCK = 1e-3, 1e-6, 1e6
ROUNDING = 1e-6  # of the dual in float32, as a fraction of the mean cost


class Sums(NamedTuple):
    """Sums over candidates.

    Attributes:
      value: `[]`, `sum(a * f)`.
      columns: `[M]`, mass that each target receives.
      squares: `[M, M]`, `sum_i a_i p_ij p_ik`.
    """

    value: jax.Array
    columns: jax.Array
    squares: jax.Array


class Ascent(NamedTuple):
    """Damped Newton's method: the best potentials so far, what is summed there, and the potentials to try next.

    Attributes:
      potentials: `[M]`.
      dual: `[]`.
      error: `[]`, mass that the targets receive too much or too little.
      sums: at these potentials.
      damping: `[]`.
      trial: `[M]`.
      passes: `[]` int32, potentials tried so far.
    """

    potentials: jax.Array
    dual: jax.Array
    error: jax.Array
    sums: Sums
    damping: jax.Array
    trial: jax.Array
    passes: jax.Array


def sums_of_block(
    cost: jax.Array, mass: jax.Array, potentials: jax.Array, masses: jax.Array, epsilon: jax.Array
) -> tuple[Sums, jax.Array]:
    """Return the sums over a block of candidates, and their own potentials.

    Args:
      cost: `[b, M]`; entries of candidates or targets without mass do not count, and may be NaN.
      mass: `[b]`, of the candidates, 0 for those that do not exist.
      potentials: `[M]`.
      masses: `[M]`, of the targets, 0 for those that do not exist.
      epsilon: `[]`, absolute.
    """
    counts = (mass > 0)[:, None] & (masses > 0)[None]
    score = jnp.where(masses[None] > 0, (potentials[None] - jnp.where(counts, cost, 0)) / epsilon, -jnp.inf)
    top = jnp.max(score, axis=1)
    top = jnp.where(top > -jnp.inf, top, 0)
    parts = jnp.exp(score - top[:, None])
    total = jnp.sum(parts, axis=1)
    total = jnp.where(total > 0, total, 1)
    own = -epsilon * (top + jnp.log(total))
    shares = parts / total[:, None]
    weighted = mass[:, None] * shares
    return Sums(jnp.sum(mass * own), jnp.sum(weighted, axis=0), product(weighted.T, shares)), own


def start(potentials: jax.Array) -> Ascent:
    """Return the ascent before its first pass, which evaluates these potentials."""
    zero = jnp.zeros((), potentials.dtype)
    nothing = Sums(zero, jnp.zeros_like(potentials), potentials[:, None] * 0 * potentials[None])
    damping = zero + FIRST_DAMPING
    return Ascent(potentials, zero - jnp.inf, zero + jnp.inf, nothing, damping, potentials, jnp.zeros((), jnp.int32))


def advance(ascent: Ascent, sums: Sums, masses: jax.Array, epsilon: jax.Array, scale: jax.Array) -> Ascent:
    """Take the tried potentials if the dual rose there, else damp the next step more; choose what to try next.

    Args:
      ascent: the ascent.
      sums: at `ascent.trial`.
      masses: `[M]`, of the targets.
      epsilon: `[]`, absolute.
      scale: `[]`, mean cost.
    """
    dual = sums.value + jnp.sum(masses * ascent.trial)
    better = dual >= ascent.dual - ROUNDING * scale
    kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), sums, ascent.sums)
    potentials = jnp.where(better, ascent.trial, ascent.potentials)
    damping = jnp.where(better, jnp.maximum(ascent.damping / 5, LEAST_DAMPING), ascent.damping * 10)
    trial = potentials + epsilon * _newton_step(kept, masses, damping)
    error = jnp.sum(jnp.abs(kept.columns - masses))
    return Ascent(potentials, jnp.where(better, dual, ascent.dual), error, kept, damping, trial, ascent.passes + 1)


def goes_on(ascent: Ascent, tolerance: jax.Array | float, max_iterations: jax.Array | int) -> jax.Array:
    """Return whether the error is above the tolerance and another pass may help."""
    return (ascent.error > tolerance) & (ascent.passes < max_iterations) & (ascent.damping < STUCK)


def _newton_step(sums: Sums, masses: jax.Array, damping: jax.Array) -> jax.Array:
    exists = masses > 0
    diagonal = jnp.where(exists, sums.columns + damping * (sums.columns + masses), 1)
    constant = masses[:, None] * masses[None]  # adding a number to all potentials changes nothing
    matrix = jnp.diag(diagonal) - sums.squares + constant
    return jnp.linalg.solve(matrix, masses - sums.columns)
