"""Hierarchical rectified flow with couplings: pair noise with data, and velocity noise with velocities.

A two-level flow learns the distribution of the velocity at each place and time by a second flow. Pairing noise with
data in groups narrows this distribution towards one velocity, which makes the second level easier; groups of 1 are the
plain method. Pairing velocity noise must respect place and time, because pairing freely across items would make the
noise at a place non-Gaussian. `hierarchical_path` therefore puts a price on distance in place and time (our form).
Where several velocities of one place are at hand, `velocity_pairs` solves one assignment for each place (the form
of the paper). `hierarchical_trajectories` draws samples from a trained flow.

References:
  Zhang et al., Towards hierarchical rectified flow, 2025 (arXiv 2502.17436).
  Zhang et al., Hierarchical rectified flow matching with mini-batch couplings, 2025 (arXiv 2507.13350).

Method: hierarchical rectified flow
Paper: 2507.13350
Experiment: hierarchical_flow
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind, given, scan
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.exact.assignments import assignment
from minibatch_jax.weights import weight_dtype


class HierarchicalPath(NamedTuple):
    """Training data of a two-level flow: the model maps (xt, t, vt, tau) to `at`.

    Attributes:
      t: `[B]`, time of the data level, in [0, 1), float32 at least; all but the times have the dtype of x1.
      xt: `[B, ...]`, `(1 - t) x0 + t x1`.
      tau: `[B]`, time of the velocity level, in [0, 1).
      vt: `[B, ...]`, `(1 - tau) v0 + tau (x1 - x0)`.
      at: `[B, ...]`, `x1 - x0 - v0`.
      x0: `[B, ...]`, the noise paired with each row of x1.
    """

    t: jax.Array
    xt: jax.Array
    tau: jax.Array
    vt: jax.Array
    at: jax.Array
    x0: jax.Array


def hierarchical_path(
    key: jax.Array | int,
    x1: jax.Array,
    *,
    data_group: int = 1,
    velocity_group: int = 1,
    place_weight: float | jax.Array = 100.0,
) -> HierarchicalPath:
    """Draw noise and times for a batch of data, and pair the noise at both levels.

    Args:
      key: typed PRNG key or int seed.
      x1: `[B, ...]`, data, floating point; its order is kept, so labels stay aligned.
      data_group: noise and data are paired within consecutive groups of this size, static; it divides B. 1 pairs
        nothing.
      velocity_group: velocity noise and velocities are paired within consecutive groups of this size, static; it
        divides B. 1 pairs nothing.
      place_weight: price of squared distance in place and time, relative to the price of squared distance in velocity,
        at least 0. At 0 the sampled distribution is biased.

    Returns:
      `HierarchicalPath(t, xt, tau, vt, at, x0)`.

    Raises:
      TypeError: if the data are not floating point, a group is not a static int or the key is a raw array.
      ValueError: if a group does not divide B or the weight is negative.

    References:
      Zhang et al., Hierarchical rectified flow matching with mini-batch couplings, 2025 (arXiv 2507.13350).

    Examples:
      >>> path = hierarchical_path(0, jnp.ones((4, 2)), data_group=2)
      >>> bool(jnp.allclose(path.xt + (1 - path.t)[:, None] * (1 - path.x0), 1.0))
      True
    """
    check_floating("x1", x1)
    check_number("place_weight", place_weight, 0)
    keys = jax.random.split(as_key(key), 4)
    given, dtype = x1.dtype, weight_dtype(x1.dtype)
    x1 = x1.astype(dtype)
    x0, v0 = (jax.random.normal(k, x1.shape, dtype) for k in keys[:2])
    t, tau = (jax.random.uniform(k, x1.shape[:1], dtype) for k in keys[2:])
    x0 = x0[grouped_sources(squared_euclidean_cost, x0, x1, data_group)]
    xt, v1 = _between(t, x0, x1), x1 - x0
    scale = jnp.sqrt(jnp.asarray(place_weight, dtype))
    place = scale * jnp.concatenate([xt.reshape(x1.shape[0], -1), t[:, None]], axis=1)
    conditioned0, conditioned1 = (jnp.concatenate([v.reshape(x1.shape[0], -1), place], axis=1) for v in (v0, v1))
    v0 = v0[grouped_sources(squared_euclidean_cost, conditioned0, conditioned1, velocity_group)]
    xt, vt, at, x0 = (x.astype(given) for x in (xt, _between(tau, v0, v1), v1 - v0, x0))
    return HierarchicalPath(t, xt, tau, vt, at, x0)


def hierarchical_velocities(
    key: jax.Array | int,
    acceleration_fn: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array],
    xt: jax.Array,
    t: jax.Array,
    *,
    num_steps: int,
) -> jax.Array:
    """Draw a velocity at each place and time from the law that the second level of a flow has learned.

    Normal noise follows the accelerations by Euler steps. To pair velocities with noise in a second stage, draw several
    at each place from the trained first stage (repeat the rows of `xt` and `t`) and hand them to `velocity_pairs`.

    Args:
      key: typed PRNG key or int seed, of the velocity noise.
      acceleration_fn: `acceleration_fn(xt, t, vt, tau) -> at`, what a model learned from the fields of
        `hierarchical_path`: places and velocities `[B, ...]`, times `[B]`.
      xt: `[B, ...]`, places, floating point.
      t: `[B]`, time of each item, in [0, 1).
      num_steps: number of evaluations of the model, at least 1, static.

    Returns:
      `[B, ...]`, velocities, in the dtype of the places; half precision is drawn and added up in float32.

    Raises:
      TypeError: if the places are not floating point or the number of steps is not a static int.
      ValueError: if shapes do not match or the number of steps is below 1.

    References:
      Zhang et al., Towards hierarchical rectified flow, 2025 (arXiv 2502.17436).

    Examples:
      >>> to_three = lambda x, t, v, tau: (3.0 - v) / (1 - tau)[:, None]
      >>> hierarchical_velocities(0, to_three, jnp.zeros((2, 1)), jnp.zeros(2), num_steps=4).tolist()
      [[3.0], [3.0]]
    """
    check_floating("xt", xt)
    check_shape("t", t, xt.shape[:1])
    check_count("num_steps", num_steps)
    dtype = weight_dtype(xt.dtype)
    noise = jax.random.normal(as_key(key), xt.shape, dtype)
    step = bind(given(_accelerate, acceleration_fn), xt, t, num_steps=num_steps)
    return scan(step, noise, jnp.arange(num_steps, dtype=dtype) / num_steps)[0].astype(xt.dtype)


def _accelerate(acceleration_fn, xt, t, v, tau, *, num_steps):
    acceleration = acceleration_fn(xt, t, v.astype(xt.dtype), jnp.full(xt.shape[:1], tau))
    return v + acceleration.astype(v.dtype) / num_steps, None


def hierarchical_trajectories(
    key: jax.Array | int,
    acceleration_fn: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array],
    x0: jax.Array,
    *,
    outer_steps: int,
    inner_steps: int,
) -> jax.Array:
    """Return the places through which a two-level flow takes noise to samples, by Euler steps at both levels.

    At each outer step every item draws a velocity, which starts as fresh normal noise and follows the accelerations for
    `inner_steps` steps; then the item moves with it. A single outer step samples already from the law of the data, if
    the model is exact and the inner steps are many. With many outer steps the draws average out, and the items follow
    the mean velocity.

    Args:
      key: typed PRNG key or int seed, of the velocity noise.
      acceleration_fn: `acceleration_fn(xt, t, vt, tau) -> at`, what a model learned from the fields of
        `hierarchical_path`: places and velocities `[B, ...]`, times `[B]`.
      x0: `[B, ...]`, noise to start from, floating point.
      outer_steps: number of steps in place, at least 1, static.
      inner_steps: number of steps in velocity for each step in place, at least 1, static. The model is evaluated
        `outer_steps * inner_steps` times. With 1 there is no second level: each velocity is v0 + acceleration(v0).

    Returns:
      `[outer_steps + 1, B, ...]`, places at the times 0, 1 / outer_steps, ..., 1, in the dtype of the noise; the last
      are the samples.

    Raises:
      TypeError: if the noise is not floating point or a number of steps is not a static int.
      ValueError: if a number of steps is below 1.

    References:
      Zhang et al., Towards hierarchical rectified flow, 2025 (arXiv 2502.17436).

    Examples:
      >>> to_three = lambda x, t, v, tau: (3.0 - x - v) / (1 - tau)[:, None]
      >>> hierarchical_trajectories(0, to_three, jnp.zeros((1, 1)), outer_steps=1, inner_steps=4)[:, 0, 0].tolist()
      [0.0, 3.0]
    """
    check_floating("x0", x0)
    check_count("outer_steps", outer_steps)
    check_count("inner_steps", inner_steps)

    dtype = weight_dtype(x0.dtype)
    step = bind(given(_move, acceleration_fn), x0, outer_steps=outer_steps, inner_steps=inner_steps)
    start = as_key(key), x0.astype(dtype)
    _, places = scan(step, start, jnp.arange(outer_steps, dtype=dtype) / outer_steps)
    return jnp.concatenate([x0[None], places])


def _move(acceleration_fn, x0, carry, t, *, outer_steps, inner_steps):
    key, x = carry
    key, velocity_key = jax.random.split(key)
    here, times = x.astype(x0.dtype), jnp.full(x.shape[:1], t)
    velocities = hierarchical_velocities(velocity_key, acceleration_fn, here, times, num_steps=inner_steps)
    x = x + velocities.astype(x.dtype) / outer_steps
    return (key, x), x.astype(x0.dtype)


def grouped_sources(
    cost_fn: Callable[[jax.Array, jax.Array], jax.Array], x0: jax.Array, x1: jax.Array, group: int
) -> jax.Array:
    """Return the source of each target when each group of consecutive items is coupled exactly, by itself.

    Args:
      cost_fn: cost of two batches, such as `squared_euclidean_cost`.
      x0: `[B, ...]`, sources.
      x1: `[B, ...]`, targets.
      group: size of a group, static; it divides B.

    Returns:
      `[B]` int32, row of `x0` for each row of `x1`. If the items of a group cannot all be paired, because one is not
        finite, every item of this group keeps its own row.

    Raises:
      TypeError: if a batch is not floating point or the group is not a static int.
      ValueError: if the batches differ in size or the group does not divide the size.

    Examples:
      >>> x0, x1 = jnp.array([[0.0], [9.0], [5.0], [7.0]]), jnp.array([[8.0], [1.0], [5.0], [6.0]])
      >>> grouped_sources(squared_euclidean_cost, x0, x1, 2).tolist()
      [1, 0, 2, 3]
    """
    size = x1.shape[0]
    check_count("group", group, size, "the batch size")
    if x0.shape[0] != size or size % group:
        raise ValueError(f"x0 and x1 have {x0.shape[0]} and {size} rows, wanted the same multiple of group {group}.")
    own = jnp.arange(size, dtype=jnp.int32)
    if group == 1:
        return own

    def solve(pair):
        found = assignment(cost_fn(*pair))
        complete = jnp.all(found.rows >= 0)
        return jnp.where(complete, found.rows, jnp.arange(group, dtype=jnp.int32))

    grouped = tuple(lax.stop_gradient(x).reshape(-1, group, *x.shape[1:]) for x in (x0, x1))
    rows = jax.vmap(lambda a, b: solve((a, b)))(*grouped)
    return (rows + own[::group, None]).reshape(-1)


def velocity_pairs(v0: jax.Array, v1: jax.Array) -> jax.Array:
    """Pair n velocity noises with n velocities at each place, by one assignment for each item.

    Args:
      v0: `[B, n, ...]`, velocity noises of each item, floating point.
      v1: `[B, n, ...]`, velocities at the place of the item, drawn from a trained first stage.

    Returns:
      `[B, n, ...]`, v0 in the order of v1.

    Raises:
      TypeError: if the noises are not floating point.
      ValueError: if shapes do not match.

    References:
      Zhang et al., Hierarchical rectified flow matching with mini-batch couplings, 2025 (arXiv 2507.13350).

    Examples:
      >>> velocity_pairs(jnp.array([[[0.0], [9.0]]]), jnp.array([[[8.0], [1.0]]])).tolist()
      [[[9.0], [0.0]]]
    """
    check_floating("v0", v0)
    check_shape("v1", v1, v0.shape)
    return jax.vmap(lambda a, b: a[grouped_sources(squared_euclidean_cost, a, b, a.shape[0])])(v0, v1)


def _between(t: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
    time = jnp.expand_dims(t, range(1, start.ndim))
    return (1 - time) * start + time * end
