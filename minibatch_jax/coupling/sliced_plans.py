"""Couplings in one dimension, where sorting solves the problem, and their averages over projections.

Everything is sorts and gathers, O(L B log B) for L projections. No other coupling here is close to an assignment and
fast for B = 100,000 on an accelerator.

References:
  Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015.
  Mahey et al., Fast optimal transport through sliced Wasserstein generalized geodesics, 2023 (arXiv 2307.01770).
  Liu et al., Expected sliced transport plans, 2024 (arXiv 2410.12176).

Method: 1-D and sliced transport
Paper: 2410.12176
Experiment: transport_gradient_flow, transport_generator
"""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind, map_rows
from minibatch_jax.boundaries.sampled_pairs import Pairs
from minibatch_jax.coupling._problem import mass_of
from minibatch_jax.coupling._sinkhorn_loop import divide
from minibatch_jax.geometry import product, unit_rows
from minibatch_jax.weights import weight_dtype


def pairs_1d(x0: jax.Array, x1: jax.Array, a: jax.Array | None = None, b: jax.Array | None = None) -> Pairs:
    """Return optimal pairs of two weighted samples on a line, for every convex cost: rank to rank.

    Items of mass 0 are in no pair. Items at equal places keep their order.

    Args:
      x0: `[B0]`, floating point, places of the sources.
      x1: `[B1]`, floating point, places of the targets.
      a: `[B0]`, mass of each source, at least 0; uniform by default. Divided by its sum.
      b: `[B1]`, mass of each target, at least 0; uniform by default. Divided by its sum.

    Returns:
      `Pairs(source, target, weights)` with B0 + B1 entries of total weight 1, at most B0 + B1 - 1 of them not 0; the
      weights of a source sum to a, those of a target to b.

    Raises:
      TypeError: if the places or the masses are not floating point.
      ValueError: if an argument is not a vector, is empty, or a mass has another size than its places, or concrete
        masses are negative or not finite.

    Examples:
      >>> source, target, weights = pairs_1d(jnp.array([3.0, 1.0]), jnp.array([5.0]))
      >>> [(int(i), int(j), float(w)) for i, j, w in zip(source, target, weights) if w > 0]
      [(1, 0, 0.5), (0, 0, 0.5)]
    """
    order0, level0 = _levels("x0", x0, "a", a)
    order1, level1 = _levels("x1", x1, "b", b)
    top = jnp.sort(jnp.concatenate([level0, level1]))
    widths = jnp.diff(top, prepend=0)
    middle = top - widths / 2
    rank0, rank1 = (jnp.searchsorted(level, middle, side="left") for level in (level0, level1))
    source, target = order0[jnp.minimum(rank0, x0.size - 1)], order1[jnp.minimum(rank1, x1.size - 1)]
    first = jnp.min(jnp.where(widths > 0, lax.iota(jnp.int32, widths.size), widths.size - 1))
    slot = jnp.where(widths > 0, lax.iota(jnp.int32, widths.size), first)
    return Pairs(source[slot], target[slot], widths)


def wasserstein_1d(
    x0: jax.Array, x1: jax.Array, a: jax.Array | None = None, b: jax.Array | None = None, *, p: float = 2.0
) -> jax.Array:
    """Return `W_p^p` of two weighted samples on a line; differentiable in the places and the masses.

    It is the mean of `|x0 - x1|^p` over the pairs of `pairs_1d`. The derivatives, of every order, are right wherever no
    two places and no two cumulated masses are equal: small steps do not change the pairs there.

    Args:
      x0: `[B0]`, floating point, places of the sources.
      x1: `[B1]`, floating point, places of the targets.
      a: `[B0]`, mass of each source, at least 0; uniform by default. Divided by its sum.
      b: `[B1]`, mass of each target, at least 0; uniform by default. Divided by its sum.
      p: exponent, at least 1.

    Returns:
      `[]`, at least 0, float32 (float64 if the places are).

    Raises:
      TypeError: if the places or the masses are not floating point.
      ValueError: if shapes do not match, p is less than 1, or concrete masses are negative or not finite.

    Examples:
      >>> float(wasserstein_1d(jnp.array([0.0, 1.0]), jnp.array([3.0, 2.0])))
      4.0
    """
    check_number("p", p, 1)
    source, target, weights = pairs_1d(lax.stop_gradient(x0), lax.stop_gradient(x1), a, b)
    x0, x1 = x0.astype(weights.dtype), x1.astype(weights.dtype)
    return jnp.sum(weights * jnp.abs(x0[source] - x1[target]) ** p)


def sliced_wasserstein(
    key: jax.Array | int | None,
    x0: jax.Array,
    x1: jax.Array,
    num_projections: int = 64,
    *,
    p: float = 2.0,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    projections: jax.Array | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Return the mean of `W_p^p` over random directions; differentiable in both batches and their masses.

    Each direction projects both batches to a line, where sorting solves the problem.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      x0: `[B0, ...]`, floating point.
      x1: `[B1, ...]`, of the same item shape.
      num_projections: how many directions, static.
      p: exponent, at least 1.
      a: `[B0]`, mass of each source, at least 0; uniform by default. Divided by its sum.
      b: `[B1]`, mass of each target, at least 0; uniform by default. Divided by its sum.
      projections: `[L, D]`, floating point, directions to use in place of random ones, scaled to length 1; D is the
        number of entries of an item. The key may then be None. A traced row of zeros makes all places equal.
      reduction: "mean" over the directions, or "max" for the largest (max-sliced).

    Returns:
      `[]`, at least 0.

    Raises:
      TypeError: if a batch, the masses or the projections are not floating point.
      ValueError: if shapes do not match, a batch is empty, p is less than 1, `num_projections` is less than 1, the
        reduction is unknown, or concrete masses are negative or not finite, or a concrete projection is zero.

    References:
      Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, 2015.

    Examples:
      >>> x = jnp.arange(6.0).reshape(3, 2)
      >>> float(sliced_wasserstein(0, x, x[::-1]))
      0.0
    """
    check_choice("reduction", reduction, ("mean", "max"))
    projected0, projected1 = _project(key, x0, x1, num_projections, projections)
    found = jax.vmap(lambda y0, y1: wasserstein_1d(y0, y1, a, b, p=p))(projected0, projected1)
    return jnp.mean(found) if reduction == "mean" else jnp.max(found)


def sliced_plan(
    key: jax.Array | int | None,
    x0: jax.Array,
    x1: jax.Array,
    num_projections: int = 64,
    *,
    mode: str = "best",
    temperature: float | jax.Array = 0.0,
    a: jax.Array | None = None,
    b: jax.Array | None = None,
    projections: jax.Array | None = None,
) -> jax.Array:
    """Return a plan of two batches from the pairings of random projections.

    Its cost is at least that of `transport` on squared distances.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      x0: `[B0, ...]`, floating point.
      x1: `[B1, ...]`, of the same item shape.
      num_projections: how many directions, static.
      mode: `'best'` takes the pairing of the least squared distance in full dimension (min-SWGG), of equal ones the
        first; `'average'` takes the mean of all pairings.
      temperature: of `'average'`, at least 0; pairing l weighs `exp(-cost_l / (temperature * mean cost))`, and all
        pairings weigh the same if it is 0.
      a: `[B0]`, mass of each source, at least 0; uniform by default. Divided by its sum.
      b: `[B1]`, mass of each target, at least 0; uniform by default. Divided by its sum.
      projections: `[L, D]`, floating point, directions to use in place of random ones, scaled to length 1; D is the
        number of entries of an item. The key may then be None. A traced row of zeros makes all places equal.

    Returns:
      `[B0, B1]`, with the marginals a and b. For equally many items without masses it is a permutation divided by B for
      `'best'`.

    Raises:
      TypeError: if a batch, the masses or the projections are not floating point.
      ValueError: if shapes do not match, the mode is unknown, the temperature is negative, `num_projections` is less
        than 1, or concrete masses are negative or not finite, or a concrete projection is zero.

    References:
      Mahey et al., Fast optimal transport through sliced Wasserstein generalized geodesics, 2023 (arXiv 2307.01770).
      Liu et al., Expected sliced transport plans, 2024 (arXiv 2410.12176).

    Examples:
      >>> sliced_plan(0, jnp.array([[3.0], [1.0]]), jnp.array([[2.0], [4.0]]), 1).tolist()
      [[0.0, 0.5], [0.5, 0.0]]
    """
    check_choice("mode", mode, ("best", "average"))
    check_number("temperature", temperature, 0)
    pairs, costs = _sliced_pairs(key, x0, x1, num_projections, a, b, projections)
    plan = jnp.zeros((x0.shape[0], x1.shape[0]), costs.dtype)
    if mode == "best":
        best = jnp.min(jnp.where(costs == jnp.min(costs), lax.iota(jnp.int32, costs.size), costs.size - 1))
        return plan.at[pairs.source[best], pairs.target[best]].add(pairs.weights[best])
    width = jnp.asarray(temperature, costs.dtype) * jnp.mean(costs)
    share = jnp.where(width > 0, jax.nn.softmax(-costs / jnp.where(width > 0, width, 1)), 1 / costs.size)
    return plan.at[pairs.source, pairs.target].add(share[:, None] * pairs.weights)


def sliced_permutations(
    key: jax.Array | int | None,
    x0: jax.Array,
    x1: jax.Array,
    num_projections: int = 64,
    *,
    projections: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the pairing of each of L random projections, without a plan in memory.

    The results are constants for the backward pass.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      x0: `[B, ...]`, floating point.
      x1: `[B, ...]`, of the same shape.
      num_projections: L, static.
      projections: `[L, D]`, floating point, directions to use in place of random ones, scaled to length 1; D is the
        number of entries of an item. The key may then be None. A traced row of zeros makes all places equal.

    Returns:
      `[L, B]` int32, the row of x1 for each row of x0, and `[L]`, the mean squared distances in full dimension.

    Raises:
      TypeError: if a batch or the projections are not floating point.
      ValueError: if shapes differ, a batch is empty, L is less than 1 or a concrete projection is zero.

    References:
      Liu et al., Expected sliced transport plans, 2024 (arXiv 2410.12176).

    Examples:
      >>> columns, costs = sliced_permutations(0, jnp.array([[3.0], [1.0]]), jnp.array([[2.0], [4.0]]), 2)
      >>> columns.tolist(), costs.tolist()
      ([[1, 0], [1, 0]], [1.0, 1.0])
    """
    check_shape("x1", x1, x0.shape)
    projected0, projected1 = _project(key, lax.stop_gradient(x0), lax.stop_gradient(x1), num_projections, projections)
    return map_rows(bind(_pair_in_order, *_flat(x0, x1, projected0.dtype)), (projected0, projected1))


def _sliced_pairs(key, x0, x1, num_projections, a, b, projections) -> tuple[Pairs, jax.Array]:
    """The pairing of each projection, `[L, pairs]`, and its mean squared distance in full dimension, `[L]`."""
    if x0.shape == x1.shape and a is None and b is None:
        columns, costs = sliced_permutations(key, x0, x1, num_projections, projections=projections)
        rows = jnp.broadcast_to(lax.iota(jnp.int32, x0.shape[0])[None], columns.shape)
        return Pairs(rows, columns, jnp.full(columns.shape, 1 / x0.shape[0], costs.dtype)), costs
    projected0, projected1 = _project(key, lax.stop_gradient(x0), lax.stop_gradient(x1), num_projections, projections)
    dtype = projected0.dtype
    a, b = (lax.stop_gradient(mass_of(n, m, len(x), dtype)) for n, m, x in (("a", a, x0), ("b", b, x1)))
    return map_rows(bind(_pair_masses, *_flat(x0, x1, dtype), a, b), (projected0, projected1))


def _flat(x0, x1, dtype):
    return tuple(lax.stop_gradient(x).reshape(x.shape[0], -1).astype(dtype) for x in (x0, x1))


def _pair_masses(flat0, flat1, a, b, places):
    pairs = pairs_1d(places[0], places[1], a, b)
    return pairs, jnp.sum(pairs.weights * jnp.sum((flat0[pairs.source] - flat1[pairs.target]) ** 2, axis=1))


def _pair_in_order(flat0, flat1, places):
    order0, order1 = (jnp.argsort(place).astype(jnp.int32) for place in places)
    columns = jnp.zeros_like(order0).at[order0].set(order1)
    return columns, jnp.mean(jnp.sum((flat0 - flat1[columns]) ** 2, axis=1))


def _project(
    key: jax.Array | int | None,
    x0: jax.Array,
    x1: jax.Array,
    num_projections: int,
    projections: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    check_floating("x0", x0)
    check_floating("x1", x1)
    check_count("num_projections", num_projections)
    if x0.shape[1:] != x1.shape[1:] or 0 in (x0.ndim, x0.size, x1.size):
        raise ValueError(f"x1 has shape {list(x1.shape)}, wanted [B1, {', '.join(map(str, x0.shape[1:]))}] as x0 has.")
    dtype = weight_dtype(jnp.promote_types(x0.dtype, x1.dtype))
    flat0, flat1 = x0.reshape(x0.shape[0], -1).astype(dtype), x1.reshape(x1.shape[0], -1).astype(dtype)
    if projections is not None:
        directions = _unit_directions(projections, flat0.shape[1], dtype)
    elif key is None:
        raise TypeError("key is None, wanted a key or an int seed where no projections are given.")
    else:
        directions = jax.random.normal(as_key(key), (num_projections, flat0.shape[1]), dtype)
        directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    projected0, projected1 = (product(directions, x.T) for x in (flat0, flat1))
    return projected0, projected1


def _unit_directions(projections: jax.Array, width: int, dtype: jnp.dtype) -> jax.Array:
    check_shape("projections", projections, (None, width))
    check_floating("projections", projections)
    if not isinstance(projections, jax.core.Tracer):
        empty = np.flatnonzero(~np.any(np.asarray(projections) != 0, axis=1))
        if len(empty):
            raise ValueError(f"projections has zeros only in row {empty[0]}, wanted a direction.")
    return unit_rows(jnp.asarray(projections).astype(dtype))


def _levels(name: str, x: jax.Array, mass_name: str, mass: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return the order of the places and the fraction of the mass up to each; the last is exactly 1."""
    check_shape(name, x, (None,))
    check_floating(name, x)
    order = jnp.argsort(x).astype(jnp.int32)
    if mass is None:
        return order, jnp.arange(1, x.size + 1, dtype=weight_dtype(x.dtype)) / x.size
    total = jnp.cumsum(mass_of(mass_name, mass, x.size, x.dtype)[order])
    return order, divide(total, total[-1] + jnp.zeros_like(total))
