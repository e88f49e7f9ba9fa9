"""Which problem a solver gets: the pairs that it may use, and the mass of each row and column.

Every solver starts here, from `a`, `b` and `where`, and every coupling, from its incoming weights.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from minibatch_jax._checks import check_bool, check_choice, check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind, if_needed
from minibatch_jax._vector import column_min, vector_min
from minibatch_jax.weights import weight_dtype

_LEAST_EPSILON = 16
_UNITS = ("mean", "std", "max")


class Marginals(NamedTuple):
    """What weights ask of a plan: `where` `[B0, B1]`, the pairs that it may use, and the masses `[B0]` and `[B1]`."""

    where: jax.Array
    a: jax.Array
    b: jax.Array


class Problem(NamedTuple):
    """Costs with infinity on forbidden pairs, marginals that are 0 where no pair is allowed, and the absolute blur."""

    cost: jax.Array
    a: jax.Array
    b: jax.Array
    epsilon: jax.Array


def check_units(relative_to: str | None) -> None:
    """Raise unless this is None or the name of a statistic of the cost."""
    if relative_to is not None:
        check_choice("relative_to", relative_to, _UNITS)


def check_entropic(
    epsilon: Any,
    relative_to: str | None,
    tolerance: float | None,
    max_iterations: int | jax.Array,
    *,
    schedules: bool = False,
) -> None:
    """Raise unless the arguments that all entropic solvers share are valid; `epsilon` is a number, or a schedule."""
    if schedules and callable(epsilon):
        _check_schedule(epsilon, max_iterations)
    else:
        check_number("epsilon", epsilon, 0, open_low=True)
    check_units(relative_to)
    if tolerance is not None:
        check_number("tolerance", tolerance, 0)
    check_count("max_iterations", max_iterations, traced=True)


def _check_schedule(epsilon: Callable[[Any], Any], max_iterations: int | jax.Array) -> None:
    """Raise unless the epsilon of each iteration is above 0 and at most the one before; traced ones pass."""
    if isinstance(max_iterations, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():
        found = jax.vmap(epsilon)(jnp.arange(int(max_iterations) + 1))
    if isinstance(found, jax.core.Tracer):
        return
    values = np.broadcast_to(np.asarray(found, np.float64), int(max_iterations) + 1)
    if not np.all(values > 0):
        place = int(np.argmin(values > 0))
        raise ValueError(f"epsilon is {values[place]:.4g} at iteration {place}, wanted a schedule above 0.")
    if np.any(np.diff(values) > 0):
        place = int(np.argmax(np.diff(values) > 0))
        raise ValueError(
            f"epsilon rises from {values[place]:.4g} at iteration {place} to {values[place + 1]:.4g}, wanted a "
            "schedule that never rises."
        )


def column_prices(init: Any, cost: jax.Array) -> jax.Array | None:
    """Return the column potentials that a warm start gives, with 0 for those that are not finite; None without one.

    `init` is a pair of row and column potentials, or what a solver returned.
    """
    if init is None:
        return None
    if hasattr(init, "column_potentials"):
        init = init.row_potentials, init.column_potentials
    elif hasattr(init, "column"):
        init = init.row, init.column
    if not isinstance(init, tuple) or len(init) != 2:
        raise TypeError(f"init is {type(init).__name__}, wanted a pair of row and column potentials or a Plan.")
    for name, prices, size in zip(("row", "column"), init, cost.shape):
        check_shape(f"init ({name} potentials)", prices, (size,))
        check_floating(f"init ({name} potentials)", prices)
    column = lax.stop_gradient(jnp.asarray(init[1])).astype(weight_dtype(cost.dtype))
    return jnp.where(jnp.isfinite(column), column, 0)


def fixed_cost(cost: jax.Array) -> jax.Array:
    """Check a cost matrix and return it as a constant, in the dtype that weights have."""
    _check_cost(cost)
    return lax.stop_gradient(jnp.asarray(cost)).astype(weight_dtype(cost.dtype))


def is_price(cost: jax.Array) -> jax.Array:
    """Return whether a cost is finite and small enough that sums of potentials stay finite."""
    return jnp.abs(cost) < jnp.sqrt(jnp.finfo(cost.dtype).max)


def allowed_pairs(
    cost: jax.Array, where: jax.Array | None, usable: Callable[[jax.Array], jax.Array] = jnp.isfinite
) -> jax.Array:
    """Return which pairs have a usable cost and are allowed by `where`, if it is given."""
    if where is None:
        return usable(cost)
    check_shape("where", where, cost.shape)
    check_bool("where", where)
    return usable(cost) & where


def kept_weights(
    weights: jax.Array, cost: jax.Array, usable: Callable[[jax.Array], jax.Array] = jnp.isfinite
) -> jax.Array:
    """Return the weights of the pairs with a usable cost, and 0 elsewhere."""
    check_shape("cost", cost, weights.shape)
    return jnp.where((weights > 0) & usable(cost), weights, 0)


def marginals_of(
    weights: jax.Array, cost: jax.Array, usable: Callable[[jax.Array], jax.Array] = jnp.isfinite
) -> Marginals:
    """Return which pairs have a weight and a usable cost, and the row and column sums of the weights on them."""
    kept = kept_weights(weights, cost, usable)
    return Marginals(kept > 0, jnp.sum(kept, axis=1), jnp.sum(kept, axis=0))


def masses(
    cost: jax.Array, a: jax.Array | None, b: jax.Array | None, *, equal: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Return the masses of rows and columns, uniform where None; concrete ones must be of one sum if `equal`."""
    _check_cost(cost)
    a, b = mass_of("a", a, cost.shape[0], cost.dtype), mass_of("b", b, cost.shape[1], cost.dtype)
    if equal:
        check_equal(a, b)
    return a, b


def check_equal(a: jax.Array, b: jax.Array) -> None:
    """Raise unless two masses are of one sum; traced ones pass."""
    if not isinstance(a, jax.core.Tracer) and not isinstance(b, jax.core.Tracer):
        total_a, total_b = (float(np.sum(np.asarray(mass, np.float64))) for mass in (a, b))
        if abs(total_a - total_b) > 1e-3 * max(total_a, total_b):
            raise ValueError(f"a has mass {total_a} and b has mass {total_b}, wanted equal masses.")


def mass_of(name: str, mass: jax.Array | None, size: int, dtype: jnp.dtype) -> jax.Array:
    """Return the mass of each item, 1/size if None, in the dtype of weights; a concrete one must be finite and >= 0."""
    if mass is None:
        return jnp.full(size, 1 / size, weight_dtype(dtype))
    check_shape(name, mass, (size,))
    check_floating(name, mass)
    if not isinstance(mass, jax.core.Tracer):
        values = np.asarray(mass)
        if not np.all(np.isfinite(values) & (values >= 0)):
            raise ValueError(f"{name} has a negative or non-finite mass, wanted finite values >= 0.")
    return jnp.asarray(mass, weight_dtype(dtype))


def make_problem(
    cost: jax.Array,
    a: jax.Array,
    b: jax.Array,
    epsilon: float | jax.Array,
    relative_to: str | None,
    where: jax.Array | None,
) -> Problem:
    """Set forbidden pairs to infinite cost and rows and columns without a pair to mass 0; all results are constants."""
    cost, a, b = lax.stop_gradient(cost), lax.stop_gradient(a), lax.stop_gradient(b)
    allowed = allowed_pairs(cost, where) & (a > 0)[:, None] & (b > 0)[None, :]
    cost = jnp.where(allowed, cost, jnp.inf)
    epsilon = lax.stop_gradient(jnp.asarray(epsilon, cost.dtype)) * statistic(cost, relative_to)
    numbers = jnp.finfo(cost.dtype)
    epsilon = jnp.maximum(epsilon, jnp.maximum(_LEAST_EPSILON * numbers.eps * statistic(cost, "max"), numbers.tiny))
    _, _, rows, columns = least_costs(cost)
    return Problem(cost, jnp.where(rows, a, 0), jnp.where(columns, b, 0), epsilon)


def least_costs(cost: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return the least cost of each row, and of each column beyond those, 0 where all are infinite, and where not.

    Minima of floats are several times faster on a CPU than `any` of booleans, and a solver that starts from these gets
    them for nothing.
    """
    low = jnp.min(cost, axis=1)
    f = jnp.where(low < jnp.inf, low, 0)
    beyond = column_min(cost - f[:, None])
    return f, jnp.where(beyond < jnp.inf, beyond, 0), low < jnp.inf, beyond < jnp.inf


def statistic(cost: jax.Array, relative_to: str | None) -> jax.Array:
    """Return the unit of epsilon: 1, or a statistic of the costs that are not infinite (1 if that is 0)."""
    if relative_to is None:
        return jnp.ones((), cost.dtype)
    if relative_to == "std":
        scale = _deviation(cost)
    else:
        on_cpu, elsewhere = _STATISTICS[relative_to]
        scale = lax.platform_dependent(cost, cpu=on_cpu, default=elsewhere)
    return jnp.where(scale > 0, scale, 1)


def _mean_on_cpu(cost: jax.Array) -> jax.Array:
    return if_needed(~_is_plain(cost), bind(_mean, cost), jnp.mean(cost))


def _largest_on_cpu(cost: jax.Array) -> jax.Array:
    return if_needed(~_is_plain(cost), bind(_largest, cost), jnp.max(cost))


def _is_plain(cost: jax.Array) -> jax.Array:
    """Return whether the costs are finite and not negative, as they usually are: then reduce them unmasked.

    XLA on CPU materializes a reduction's operand. Elsewhere a mask is free, and to look costs more than the statistic.
    """
    rows = jnp.min(cost, axis=-1)
    least = vector_min(rows) if rows.ndim else rows
    return (least >= 0) & (jnp.max(cost) < jnp.finfo(cost.dtype).max / cost.size)


def _largest(cost: jax.Array, easy: jax.Array | None = None) -> jax.Array:
    return jnp.max(jnp.abs(cost), where=cost < jnp.inf, initial=0)


def _mean(cost: jax.Array, easy: jax.Array | None = None) -> jax.Array:
    largest, unit, _, count = _in_units(cost)
    return largest * (jnp.sum(jnp.abs(unit)) / count)


def _deviation(cost: jax.Array) -> jax.Array:
    largest, unit, allowed, count = _in_units(cost)
    return largest * jnp.sqrt(jnp.sum(jnp.where(allowed, (unit - jnp.sum(unit) / count) ** 2, 0)) / count)


def _in_units(cost: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The largest cost, the costs as fractions of it (0 where forbidden), which are allowed and how many."""
    largest, allowed = _largest(cost), cost < jnp.inf
    unit = jnp.where(allowed, cost / jnp.where(largest > 0, largest, 1), 0)
    return largest, unit, allowed, jnp.maximum(jnp.sum(allowed.astype(cost.dtype)), 1)


def _check_cost(cost: jax.Array) -> None:
    check_shape("cost", cost, (None, None))
    check_floating("cost", cost)


_STATISTICS = {"mean": (_mean_on_cpu, _mean), "max": (_largest_on_cpu, _largest)}
