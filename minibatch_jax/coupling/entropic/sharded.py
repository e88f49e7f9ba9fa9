"""Sinkhorn for batches too large for one cost matrix: rows over devices, and in blocks on each.

Each device keeps the features of its rows and of all columns, and the two potentials. Every iteration computes the
costs again, one block of rows at a time, so the largest array is `[block, B1]` for every B0. An iteration sends two
vectors of B1 floats: the maximum and the sum of a log-sum-exp over the rows of all devices. The backward pass computes
the costs once more, so it needs no larger array either.

References:
  Zhang et al., On fitting flow models with large Sinkhorn couplings, 2025 (arXiv 2506.05526).

Method: row-sharded Sinkhorn
Paper: 2506.05526
Experiment: speed sharded_sinkhorn
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._checks import as_key, check_count, check_floating
from minibatch_jax._loops import bind, given, map_rows, scan
from minibatch_jax._vector import first_maxima
from minibatch_jax.coupling._certificates import has_converged
from minibatch_jax.coupling._problem import check_entropic, check_equal, mass_of
from minibatch_jax.coupling._sinkhorn_loop import log_where
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.entropic.balanced import TOLERANCE
from minibatch_jax.coupling.plans import Potentials
from minibatch_jax.devices import as_varying, axis_size, bound_axis, max_over, sum_over
from minibatch_jax.weights import weight_dtype

Cost = Callable[[jax.Array, jax.Array], jax.Array]


class _State(NamedTuple):
    """Potentials after an iteration, which rows and columns have any, the error before it, how many there were."""

    g: jax.Array
    f: jax.Array
    of_b: jax.Array
    of_a: jax.Array
    error: jax.Array
    iterations: jax.Array


def sharded_sinkhorn(
    x0: jax.Array,
    x1: jax.Array,
    *,
    epsilon: float | jax.Array,
    max_iterations: int,
    block_size: int,
    tolerance: float | None = TOLERANCE,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    axis_name: str | None = None,
    cost_fn: Cost = squared_euclidean_cost,
) -> Potentials:
    """Return the potentials of an entropic plan, for batches too large for one cost matrix.

    The plan is `P_ij = exp((f_i + g_j - cost_ij) / epsilon)`, with f the row and g the column potentials; `plan_rows`
    computes some rows of it. Call this inside `shard_map` over the rows of `x0`; without an axis it runs on one device.
    A row of mass 0, such as padding, or with an entry that is not finite takes no part: its potential is -inf.

    Args:
      x0: `[b0, ...]`, this device's sources, floating point.
      x1: `[B1, ...]`, all targets, the same on all devices.
      epsilon: absolute entropic regularization, > 0, may be traced.
      max_iterations: at most this many, static.
      block_size: rows whose costs are in memory at once, static; it must divide b0.
      tolerance: stop when `error` is at most this, at least 0; None runs exactly `max_iterations`. Under `vmap` all are
        run, and those after the stop change nothing.
      a: `[b0]`, mass of each of this device's sources, at least 0; 1/B0 by default.
      b: `[B1]`, mass of each target, the same on all devices, at least 0 and of the same sum as the masses of the
        sources of all devices; 1/B1 by default.
      axis_name: name of the mapped axis over which `x0` is sharded.
      cost_fn: cost of two batches, computed block by block, such as `cosine_cost`; a pair whose cost is not finite is
        forbidden.

    Returns:
      `Potentials(row, column, value, error, iterations, converged)`. `row` `[b0]` belongs to this device; all else is
      equal on all devices. The column sums of the plan are exact, `error` is the L1 distance of all row sums to their
      masses before the last update of f, as a fraction of the mass; masses that could not be shipped count as errors.
      `iterations` is how many were run. With `tolerance=None`, `converged` takes 1e-3 as the tolerance. `value` is the
      optimum of `sum(P * cost) + epsilon * KL(P | a b^T)` for masses of sum 1; potentials and value are differentiable,
      through all iterations that were run. Masses are constants, and so is the error.

    Raises:
      TypeError: if `x0` or a mass is not floating point.
      ValueError: if the block size does not divide the rows, epsilon is not positive, `max_iterations` is less than 1,
        or concrete masses are negative, not finite or of different sums.

    References:
      Zhang et al., On fitting flow models with large Sinkhorn couplings, 2025 (arXiv 2506.05526).

    Examples:
      >>> x = jnp.array([[0.0], [1.0]])
      >>> found = sharded_sinkhorn(x, x, epsilon=0.1, max_iterations=20, block_size=1)
      >>> sharded_targets(0, x, x, found, epsilon=0.1, block_size=1).tolist()
      [0, 1]
    """
    check_floating("x0", x0)
    check_entropic(epsilon, None, tolerance, max_iterations)
    dtype = weight_dtype(x0.dtype)
    devices = axis_size(axis_name) if a is None else 1
    mass, b = mass_of("a", a, x0.shape[0], dtype), mass_of("b", b, x1.shape[0], dtype)
    check_equal(mass, b)
    mass = _varying(lax.stop_gradient(mass) / devices, axis_name)
    (x0, a_usable), (x1, b) = _with_mass(x0, mass), _with_mass(x1, lax.stop_gradient(b))
    blocks = _blocks(x0, block_size), _blocks(a_usable, block_size)
    width = jnp.asarray(epsilon, dtype)
    empty = _varying(jnp.full(x0.shape[0], -jnp.inf, dtype), axis_name)  # a plan without mass, of error 1
    start = _State(jnp.zeros(x1.shape[0], dtype), empty, b > 0, a_usable > 0, jnp.asarray(jnp.inf, dtype), jnp.int32(0))
    options = {"axis_name": axis_name, "tolerance": tolerance}
    step = bind(given(_step, cost_fn), blocks, x1, mass, b, width, **options)
    (g, f, of_b, of_a, error, iterations), _ = scan(step, start, None, length=max_iterations)
    prices = sum_over(jnp.sum(a_usable * (f - width * log_where(a_usable, a_usable))), axis_name)
    value = prices + jnp.sum(b * (g - width * log_where(b, b)))
    converged = has_converged(error, TOLERANCE if tolerance is None else tolerance, prices, g)
    f, g = jnp.where(of_a, f, -jnp.inf), jnp.where(of_b, g, -jnp.inf)
    return Potentials(f, g, value, error, iterations, converged)


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

    Each block of costs is computed again, so no row of the plan is ever stored.

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
      ValueError: if the block size does not divide the rows.

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


def _step(cost_fn, blocks, x1, a, b, width, state, _, *, axis_name, tolerance):
    """Do an iteration, or nothing once the error is within the tolerance. The backward pass keeps the states alone."""

    @jax.checkpoint
    def step(state, width, x1, blocks):
        def scale():
            return _scale(cost_fn, blocks, x1, a, b, width, state, axis_name)

        return scale() if tolerance is None else lax.cond(state.error > tolerance, scale, lambda: state)

    return step(state, width, x1, blocks), None


def _scale(cost_fn, blocks, x1, a, b, width, state, axis_name):
    """Bring the rows of the plan to their masses, a block at a time, then its columns."""

    @jax.checkpoint  # the backward pass of a block computes its costs again
    def scale_block(sums, g, width, x1, block, mass):
        score = _scores(cost_fn, block, x1, g, width, state.of_b)
        of_row = (mass > 0) & (jnp.max(score, axis=1) > -jnp.inf)
        total = jax.nn.logsumexp(jnp.where(of_row[:, None], score, 0), axis=1)
        f = jnp.where(of_row, log_where(mass, mass) - total, 0)
        shares = jnp.where(of_row[:, None], f[:, None] + score, -jnp.inf)
        return _add_rows(sums, shares), (width * f, of_row)

    empty = _varying((jnp.full_like(state.g, -jnp.inf), jnp.zeros_like(state.g)), axis_name)
    (top, total), (f, of_a) = lax.scan(lambda sums, block: scale_block(sums, state.g, width, x1, *block), empty, blocks)
    f, of_a = f.reshape(-1), of_a.reshape(-1)
    sums = _log_sum_over_devices(top, total, axis_name)
    of_b = (b > 0) & (sums > -jnp.inf)
    moved = lax.stop_gradient((state.f - f) / width)
    wrong = jnp.where(of_a, a * jnp.abs(jnp.expm1(moved)), a)
    error = sum_over(jnp.sum(wrong), axis_name) / sum_over(jnp.sum(a), axis_name)
    g = jnp.where(of_b, state.g + width * (log_where(b, b) - jnp.where(of_b, sums, 0)), 0)
    return _State(g, f, of_b, of_a, error, state.iterations + 1)


def _scores(cost_fn, block, x1, g, width, of_b):
    """Return (g - cost) / epsilon of a block of rows, -inf where a pair is forbidden or its column takes no part."""
    cost = cost_fn(block, x1).astype(g.dtype)
    allowed = jnp.isfinite(cost) & of_b[None, :]
    return jnp.where(allowed, (jnp.where(of_b, g, 0)[None, :] - jnp.where(allowed, cost, 0)) / width, -jnp.inf)


def _with_mass(x: jax.Array, mass: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the rows and their masses, both 0 for a row that is not finite."""
    finite = jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))
    return jnp.where(finite.reshape(-1, *(1,) * (x.ndim - 1)), x, 0), jnp.where(finite, mass, 0)


def _draw_targets(cost_fn, x1, g, epsilon, key, numbered):
    block, index = numbered
    score = _scores(cost_fn, block, x1, g, epsilon, jnp.isfinite(g))
    score += jax.random.gumbel(jax.random.fold_in(key, index), score.shape, score.dtype)
    return first_maxima(score, axis=1)[1]


def _add_rows(sums: tuple[jax.Array, jax.Array], score: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Add rows to a log-sum-exp of each column, kept as a maximum and a sum relative to it.

    Which maximum it is does not matter but for overflow, so it is a constant for the gradient.
    """
    top, total = sums
    new_top = lax.stop_gradient(jnp.maximum(top, jnp.max(score, axis=0)))
    shift = jnp.where(new_top > -jnp.inf, new_top, 0)  # no row yet: the sum stays 0
    return new_top, total * jnp.exp(top - shift) + jnp.sum(jnp.exp(score - shift[None, :]), axis=0)


def _log_sum_over_devices(top: jax.Array, total: jax.Array, axis_name: str | None) -> jax.Array:
    highest = max_over(top, axis_name)
    shift = jnp.where(highest > -jnp.inf, highest, 0)
    total = sum_over(total * jnp.exp(top - shift), axis_name)
    return jnp.where(total > 0, shift + log_where(total, total), -jnp.inf)


def _blocks(x0: jax.Array, block_size: int) -> jax.Array:
    check_count("block_size", block_size, x0.shape[0], "the number of rows of this device")
    if x0.shape[0] % block_size:
        raise ValueError(f"block_size is {block_size}, wanted a divisor of the {x0.shape[0]} rows of this device.")
    return x0.reshape(-1, block_size, *x0.shape[1:])


def _varying(tree: Any, axis_name: str | None) -> Any:
    axis = bound_axis(axis_name)
    return tree if axis is None else as_varying(tree, axis)
