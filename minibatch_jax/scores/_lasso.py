"""A path of lasso fits of many targets on the same standardized inputs, by accelerated proximal gradients (FISTA).

All that a step reads are the Gram matrix of the inputs and their correlations with the targets, so a step is one
product `[N, N] x [N, T]` whatever the number of rows. Each target has its own penalty and its own restarts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._loops import bind, scan, while_loop
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import product


class Standardized(NamedTuple):
    """Moments of the rows that count.

    Attributes:
      center: `[N]`, means of the inputs.
      scale: `[N]`, standard deviations of the inputs, 1 where an input is constant.
      varies: `[N]` bool, whether an input is not constant.
      mean: `[T]`, of the targets.
      gram: `[N, N]`, of standardized inputs, divided by the number of rows.
      correlations: `[N, T]`, of standardized inputs with centered targets, divided by the number of rows.
    """

    center: jax.Array
    scale: jax.Array
    varies: jax.Array
    mean: jax.Array
    gram: jax.Array
    correlations: jax.Array


class _Fista(NamedTuple):
    last: jax.Array
    ahead: jax.Array
    momentum: jax.Array
    residual: jax.Array
    step: jax.Array


class Path(NamedTuple):
    """The best coefficients of a path and where they were found, for each target.

    Attributes:
      coefficients: `[N, T]`, of standardized inputs.
      penalty: `[T]`.
      errors: `[L, T]`, validation error at each penalty.
    """

    coefficients: jax.Array
    penalty: jax.Array
    errors: jax.Array


def standardize(inputs: jax.Array, targets: jax.Array, counts: jax.Array) -> Standardized:
    """Return the moments of inputs `[M, N]` and targets `[M, T]`, finite, over the rows that count `[M]` bool."""
    weights = counts.astype(inputs.dtype)
    total = jnp.maximum(jnp.sum(weights), 1)
    center, mean = product(weights, inputs) / total, product(weights, targets) / total
    varies = jnp.max(inputs, axis=0, where=counts[:, None], initial=-jnp.inf) > jnp.min(
        inputs, axis=0, where=counts[:, None], initial=jnp.inf
    )
    centered = jnp.where(counts[:, None] & varies[None], inputs - center[None], 0)
    scale = jnp.where(varies, jnp.sqrt(jnp.sum(centered**2, axis=0) / total), 1)
    centered = centered / nonzero(scale)[None]
    targets = jnp.where(counts[:, None], targets - mean[None], 0)
    return Standardized(
        center, scale, varies, mean, product(centered.T, centered) / total, product(centered.T, targets) / total
    )


def raw_coefficients(moments: Standardized, coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the intercept `[T]` and the coefficients `[N, T]` of inputs that are not standardized."""
    raw = coefficients / nonzero(moments.scale)[:, None]
    return moments.mean - product(moments.center, raw), raw


def lipschitz(gram: jax.Array) -> jax.Array:
    """Return the largest eigenvalue `[]` of a Gram matrix, at least the smallest normal number."""
    return jnp.maximum(jnp.linalg.eigvalsh(gram)[-1], jnp.finfo(gram.dtype).tiny)


def lasso(
    gram: jax.Array,
    correlations: jax.Array,
    penalty: jax.Array,
    start: jax.Array,
    largest: jax.Array,
    *,
    tolerance: jax.Array,
    max_iterations: int,
) -> jax.Array:
    """Return the minimizer `[N, T]` of `x @ gram @ x / 2 - x @ correlations + penalty * sum |x|` for each target.

    Args:
      gram: `[N, N]`.
      correlations: `[N, T]`.
      penalty: `[T]`.
      start: `[N, T]`.
      largest: `[]`, largest eigenvalue of `gram`.
      tolerance: stop once no entry moves by more than this fraction of the largest correlation, times 1 / `largest`.
      max_iterations: static.
    """
    ones = jnp.ones_like(penalty)
    state = _Fista(start, start, ones, jnp.full_like(penalty, jnp.inf), jnp.zeros((), jnp.int32))
    small = tolerance * jnp.max(jnp.abs(correlations), axis=0)
    goes_on = bind(_goes_on, small, max_iterations=max_iterations)
    return while_loop(goes_on, bind(_step, gram, correlations, penalty, largest), state).last


def best_of_path(
    moments: Standardized,
    penalties: jax.Array,
    validation: tuple[jax.Array, jax.Array, jax.Array],
    *,
    tolerance: jax.Array,
    max_iterations: int,
) -> Path:
    """Fit at each penalty `[L, T]`, the largest first, and keep for each target the fit of the least validation error.

    Args:
      moments: of the rows to fit.
      penalties: `[L, T]`.
      validation: inputs `[V, N]`, targets `[V, T]` and which rows count `[V]`.
      tolerance: as in `lasso`.
      max_iterations: of a penalty.
    """
    start = jnp.zeros_like(moments.correlations)
    none = jnp.full_like(penalties[0], jnp.inf)
    step = bind(
        _along_path,
        moments,
        validation,
        lipschitz(moments.gram),
        tolerance,
        max_iterations=max_iterations,
    )
    (_, best, penalty, _), errors = scan(step, (start, start, penalties[0], none), penalties)
    return Path(best, penalty, errors)


def optimality_gap(gram: jax.Array, correlations: jax.Array, penalty: jax.Array, fitted: jax.Array) -> jax.Array:
    """Return for each target by how much the conditions of a minimum are violated: 0 at the minimum."""
    slope = correlations - product(gram, fitted)
    at_zero = jnp.maximum(jnp.abs(slope) - penalty[None], 0)
    return jnp.max(jnp.where(fitted == 0, at_zero, jnp.abs(slope - penalty[None] * jnp.sign(fitted))), axis=0)


def _goes_on(small, state, *, max_iterations):
    return (state.step < max_iterations) & jnp.any(state.residual > small)


def _step(gram, correlations, penalty, largest, state):
    moved = state.ahead - (product(gram, state.ahead) - correlations) / largest
    found = moved - jnp.clip(moved, -penalty[None] / largest, penalty[None] / largest)
    # restart a target whose momentum points uphill, O'Donoghue & Candes 2015
    uphill = jnp.sum((state.ahead - found) * (found - state.last), axis=0) > 0
    momentum = jnp.where(uphill, 1, (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2)
    carried = jnp.where(uphill, 0, (state.momentum - 1) / momentum)
    ahead = found + carried[None] * (found - state.last)
    residual = largest * jnp.max(jnp.abs(found - state.ahead), axis=0)
    return _Fista(found, ahead, momentum, residual, state.step + 1)


def _along_path(moments, validation, largest, tolerance, carry, penalty, *, max_iterations):
    last, best, chosen, least = carry
    fitted = lasso(
        moments.gram,
        moments.correlations,
        penalty,
        last,
        largest,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    intercept, raw = raw_coefficients(moments, fitted)
    inputs, targets, counts = validation
    squares = (product(inputs, raw) + intercept[None] - targets) ** 2
    error = jnp.sum(jnp.where(counts[:, None], squares, 0), axis=0) / jnp.maximum(
        jnp.sum(counts.astype(squares.dtype)), 1
    )
    better = error < least
    best = jnp.where(better[None], fitted, best)
    carry = fitted, best, jnp.where(better, penalty, chosen), jnp.where(better, error, least)
    return carry, error
