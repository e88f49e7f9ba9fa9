"""Sinkhorn for batches too large for one cost matrix: rows over devices, columns in chunks.

Each device keeps the features of its rows and of all columns, and the two potentials. Every iteration computes the
costs again, one chunk of rows at a time, so the largest array is `[chunk, B1]` for every B0. An iteration sends two
vectors of B1 floats: the maximum and the sum of a log-sum-exp over the rows of all devices.

References:
  Zhang et al., On fitting flow models with large Sinkhorn couplings, 2025 (arXiv 2506.05526).

Method: row-sharded Sinkhorn
Paper: 2506.05526
Experiment: speed sharded_sinkhorn
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._checks import as_key, check_count, check_floating
from minibatch_jax._loops import bind, given, map_rows, scan
from minibatch_jax.coupling._certificates import has_converged
from minibatch_jax.coupling._problem import check_entropic
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.entropic.balanced import TOLERANCE
from minibatch_jax.coupling.plans import Potentials
from minibatch_jax.devices import as_varying, axis_size, bound_axis, sum_over
from minibatch_jax.weights import weight_dtype

Cost = Callable[[jax.Array, jax.Array], jax.Array]


def sharded_sinkhorn(
    x0: jax.Array,
    x1: jax.Array,
    *,
    epsilon: float | jax.Array,
    max_iterations: int,
    block_size: int,
    axis_name: str | None = None,
    cost_fn: Cost = squared_euclidean_cost,
) -> Potentials:
    """Return the potentials of an entropic plan with uniform marginals, for batches too large for one cost matrix.

    The plan is `P_ij = exp((f_i + g_j - cost_ij) / epsilon)`, with f the row and g the column potentials. Call this
    inside `shard_map` over the rows of `x0`; without an axis it runs on one device.

    Args:
      x0: `[b0, ...]`, this device's sources, floating point.
      x1: `[B1, ...]`, all targets, the same on all devices.
      epsilon: absolute entropic regularization, > 0, may be traced.
      max_iterations: how many, static.
      block_size: rows whose costs are in memory at once, static; it must divide b0.
      axis_name: name of the mapped axis over which `x0` is sharded.
      cost_fn: cost of two batches, computed chunk by chunk.

    Returns:
      `Potentials(row, column, value, error, iterations, converged)`. `row` `[b0]` belongs to this device; all else is
      equal on all devices. The column sums of the plan are exact, `error` is the L1 distance of all row sums to 1/B0
      before the last update of f, and `converged` takes 1e-3 as the tolerance. `value` is the optimum of `sum(P * cost)
      + epsilon * KL(P | uniform)`; potentials and value are differentiable, through all iterations.

    Raises:
      TypeError: if `x0` is not floating point.
      ValueError: if the chunk does not divide the rows, epsilon is not positive or `max_iterations` is less than 1.

    References:
      Zhang et al., On fitting flow models with large Sinkhorn couplings, 2025 (arXiv 2506.05526).

    Examples:
      >>> x = jnp.array([[0.0], [1.0]])
      >>> found = sharded_sinkhorn(x, x, epsilon=0.1, max_iterations=20, block_size=1)
      >>> sharded_targets(0, x, x, found, epsilon=0.1, block_size=1).tolist()
      [0, 1]
    """
    check_floating("x0", x0)
    check_entropic(epsilon, None, None, max_iterations)
    blocks = _blocks(x0, block_size)
    dtype = weight_dtype(x0.dtype)
    width = jnp.asarray(epsilon, dtype)
    start = jnp.zeros(x1.shape[0], dtype), _varying(jnp.zeros(x0.shape[0], dtype), axis_name)
    step = bind(given(_scale, cost_fn), blocks, x1, width, axis_name=axis_name)
    (g, f), errors = scan(step, start, None, length=max_iterations)
    prices = sum_over(jnp.sum(f), axis_name)
    log_a, log_b = _log_masses(x0.shape[0], x1.shape[0], axis_name)
    value = prices / (x0.shape[0] * axis_size(axis_name)) + jnp.mean(g) - width * (log_a + log_b)
    converged = has_converged(errors[-1], TOLERANCE, prices, g)
    return Potentials(f, g, value, errors[-1], jnp.int32(max_iterations), converged)


def sharded_targets(
    key: jax.Array | int,
    x0: jax.Array,
    x1: jax.Array,
    found: Potentials,
    *,
    epsilon: float | jax.Array,
    block_size: int,
    axis_name: str | None = None,
    cost_fn: Cost = squared_euclidean_cost,
) -> jax.Array:
    """Draw a target for each of this device's sources from its row of the plan, as `sample_pairs(mode="rows")` does.

    Each chunk of costs is computed again, so no row of the plan is ever stored.

    Args:
      key: int seed, typed key or legacy `PRNGKey`, the same on all devices.
      x0: `[b0, ...]`, this device's sources, floating point.
      x1: `[B1, ...]`, all targets, the same on all devices.
      found: what `sharded_sinkhorn` returned for these batches.
      epsilon: the epsilon that `found` was solved with.
      block_size: rows whose costs are in memory at once, static; it must divide b0.
      axis_name: name of the mapped axis over which `x0` is sharded.
      cost_fn: the cost that `found` was solved with.

    Returns:
      `[b0]` int32, row of `x1` for each row of `x0`.

    Raises:
      ValueError: if the chunk does not divide the rows.

    References:
      Zhang et al., On fitting flow models with large Sinkhorn couplings, 2025 (arXiv 2506.05526).

    Examples:
      >>> x = jnp.array([[0.0], [1.0]])
      >>> found = sharded_sinkhorn(x, x[::-1], epsilon=0.1, max_iterations=20, block_size=2)
      >>> sharded_targets(0, x, x[::-1], found, epsilon=0.1, block_size=2).tolist()
      [1, 0]
    """
    blocks = _blocks(x0, block_size)
    g = found.column
    key = as_key(key)
    if bound_axis(axis_name):
        key = jax.random.fold_in(key, lax.axis_index(axis_name))
    draw = bind(given(_draw_targets, cost_fn), x1, g, jnp.asarray(epsilon, g.dtype), key)
    return map_rows(draw, (blocks, jnp.arange(blocks.shape[0]))).reshape(-1)


def _scale(cost_fn, blocks, x1, width, carry, _, *, axis_name):
    """Bring the rows of the plan to their masses, a block at a time, then its columns; return the error, too."""
    g, old = carry
    log_a, log_b = _log_masses(old.shape[0], x1.shape[0], axis_name)

    def scale_rows(sums, block):
        score = (g[None, :] - cost_fn(block, x1).astype(g.dtype)) / width
        f = log_a - jax.nn.logsumexp(score, axis=1)
        return _add_rows(sums, f[:, None] + score), width * f

    empty = _varying((jnp.full_like(g, -jnp.inf), jnp.zeros_like(g)), axis_name)
    (top, total), f = lax.scan(scale_rows, empty, blocks)
    f = f.reshape(-1)
    error = jnp.sum(jnp.abs(jnp.expm1((old - f) / width))) / (old.shape[0] * axis_size(axis_name))
    g = g + width * (log_b - _log_sum_over_devices(top, total, axis_name))
    return (g, f), sum_over(error, axis_name)


def _log_masses(rows: int, columns: int, axis_name: str | None) -> tuple[float, float]:
    """Return the log of the mass of a row, of all devices, and of a column."""
    return -math.log(rows * axis_size(axis_name)), -math.log(columns)


def _draw_targets(cost_fn, x1, g, epsilon, key, numbered):
    block, index = numbered
    score = (g[None, :] - cost_fn(block, x1).astype(g.dtype)) / epsilon
    score += jax.random.gumbel(jax.random.fold_in(key, index), score.shape, score.dtype)
    column = lax.broadcasted_iota(jnp.int32, score.shape, 1)
    return jnp.min(jnp.where(score == jnp.max(score, axis=1, keepdims=True), column, score.shape[1] - 1), axis=1)


def _add_rows(sums: tuple[jax.Array, jax.Array], score: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Add rows to a log-sum-exp of each column, kept as a maximum and a sum relative to it."""
    top, total = sums
    new_top = jnp.maximum(top, jnp.max(score, axis=0))
    return new_top, total * jnp.exp(top - new_top) + jnp.sum(jnp.exp(score - new_top[None, :]), axis=0)


def _log_sum_over_devices(top: jax.Array, total: jax.Array, axis_name: str | None) -> jax.Array:
    if not bound_axis(axis_name):
        return top + jnp.log(total)
    highest = lax.pmax(top, axis_name)
    return highest + jnp.log(lax.psum(total * jnp.exp(top - highest), axis_name))


def _blocks(x0: jax.Array, block_size: int) -> jax.Array:
    check_count("block_size", block_size, x0.shape[0], "the number of rows of this device")
    if x0.shape[0] % block_size:
        raise ValueError(f"block_size is {block_size}, wanted a divisor of the {x0.shape[0]} rows of this device.")
    return x0.reshape(-1, block_size, *x0.shape[1:])


def _varying(tree: Any, axis_name: str | None) -> Any:
    axis = bound_axis(axis_name)
    return tree if axis is None else as_varying(tree, axis)
