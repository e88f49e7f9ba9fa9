"""Hierarchical rectified flow with couplings: pair noise with data, and velocity noise with velocities.

A flow of two levels learns the distribution of the velocity at each place and time by a second flow. Further levels do
so for the acceleration, and so on; a flow of one level is plain flow matching. Pairing noise with data in groups
narrows the distribution of velocities towards one velocity, which makes the second level easier; groups of 1 are the
plain method. Pairing velocity noise must respect place and time, because pairing freely across items would make the
noise at a place non-Gaussian. `hierarchical_path` therefore puts a price on distance in place and time (our form). In
the form of the paper a second stage draws several velocities at each place from a trained flow and pairs them there:
`second_stage_path`. `hierarchical_trajectories` draws samples from a trained flow.

References:
  Zhang et al., Towards hierarchical rectified flow, 2025 (arXiv 2502.17436).
  Zhang et al., Hierarchical rectified flow matching with mini-batch couplings, 2025 (arXiv 2507.13350).

Method: hierarchical rectified flow
Paper: 2507.13350
Experiment: hierarchical_flow, hierarchical_flow_images
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

Model = Callable[[jax.Array, jax.Array], jax.Array]


class HierarchicalPath(NamedTuple):
    """Training data of a flow of D levels: the model maps (states, times) to the target.

    Level l goes from its noise to its end w_l. The first end is the data, and w_(l+1) = w_l - noise[:, l] is the
    velocity of level l: the velocity of the place, the acceleration, and so on.

    Attributes:
      times: `[B, D]`, time of each level, in [0, 1), float32 at least; all but the times have the dtype of x1.
      states: `[B, D, ...]`, place, velocity, acceleration, ...: `(1 - times) noise + times w`.
      target: `[B, ...]`, w_D, which is the data less the noise of all levels.
      noise: `[B, D, ...]`, the noise of each level that is paired with each row of x1.
    """

    times: jax.Array
    states: jax.Array
    target: jax.Array
    noise: jax.Array


def hierarchical_path(
    key: jax.Array | int, x1: jax.Array, *, groups: tuple[int, ...], place_weight: float | jax.Array = 100.0
) -> HierarchicalPath:
    """Draw noise and times for a batch of data at every level, and pair the noise with where its level ends.

    Args:
      key: typed PRNG key or int seed.
      x1: `[B, ...]`, data, floating point; its order is kept, so labels stay aligned.
      groups: size of a group at each level, static, so there are `len(groups)` levels. Noise and ends of a level are
        paired within consecutive groups of this size, which divides B. 1 pairs nothing: `(1, 1)` is a plain flow of two
        levels, `(B, 1)` pairs noise with data, and `(B,)` is OT-CFM.
      place_weight: price of squared distance in the states and times of the levels above, relative to the price of
        squared distance between noise and end, at least 0. At 0 the sampled distribution is biased.

    Returns:
      `HierarchicalPath(times, states, target, noise)`.

    Raises:
      TypeError: if the data are not floating point, the groups are no static ints or the key is a raw array.
      ValueError: if there are no groups, a group does not divide B or the weight is negative.

    References:
      Zhang et al., Towards hierarchical rectified flow, 2025 (arXiv 2502.17436), for the levels.
      Zhang et al., Hierarchical rectified flow matching with mini-batch couplings, 2025 (arXiv 2507.13350).

    Examples:
      >>> path = hierarchical_path(0, jnp.ones((4, 2)), groups=(2, 1))
      >>> path.states.shape, bool(jnp.allclose(path.target + path.noise.sum(axis=1), 1.0))
      ((4, 2, 2), True)
    """
    check_floating("x1", x1)
    check_number("place_weight", place_weight, 0)
    _check_levels("groups", groups)
    given_dtype, dtype = x1.dtype, weight_dtype(x1.dtype)
    size = x1.shape[0]
    times_key, *keys = jax.random.split(as_key(key), len(groups) + 1)
    times = jax.random.uniform(times_key, (size, len(groups)), dtype)
    scale = jnp.sqrt(jnp.asarray(place_weight, dtype))
    end, above, states, noise = x1.astype(dtype), [], [], []
    for level, (own_key, group) in enumerate(zip(keys, groups, strict=True)):
        drawn = jax.random.normal(own_key, x1.shape, dtype)
        sources, targets = (jnp.concatenate([v.reshape(size, -1), *above], axis=1) for v in (drawn, end))
        drawn = drawn[grouped_sources(squared_euclidean_cost, sources, targets, group)]
        state = _between(times[:, level], drawn, end)
        above += [scale * state.reshape(size, -1), scale * times[:, level : level + 1]]
        states.append(state)
        noise.append(drawn)
        end = end - drawn
    found = jnp.stack(states, axis=1), end, jnp.stack(noise, axis=1)
    return HierarchicalPath(times, *(x.astype(given_dtype) for x in found))


def second_stage_path(
    key: jax.Array | int, model_fn: Model, path: HierarchicalPath, *, draws: int, num_steps: int
) -> HierarchicalPath:
    """Pair noise of the last level with what a trained flow draws at each place: the second stage of the paper.

    The upper levels of each item stay. At their states and times the flow draws several velocities, and as many normal
    noises are paired with them by an assignment for each item. A second flow trained on this path, which may start from
    the first, needs few steps at its last level. It inherits the errors of the first flow.

    Args:
      key: typed PRNG key or int seed.
      model_fn: `model_fn(states, times) -> target`, what the first stage learned.
      path: path of B items and D levels, at least 2, such as `hierarchical_path` draws.
      draws: n, velocities and noises of each item, static.
      num_steps: evaluations of the model for each draw, static.

    Returns:
      `HierarchicalPath` of B * n rows, item after item; no gradient flows back into the model.

    Raises:
      TypeError: if a number is not a static int or the key is a raw array.
      ValueError: if the path has one level or a number is below 1.

    References:
      Zhang et al., Hierarchical rectified flow matching with mini-batch couplings, 2025 (arXiv 2507.13350).

    Examples:
      >>> path = hierarchical_path(0, jnp.ones((4, 2)), groups=(1, 1))
      >>> to_three = lambda states, times: (3.0 - states[:, 1]) / (1 - times[:, 1, None])
      >>> second = second_stage_path(1, to_three, path, draws=5, num_steps=8)
      >>> second.states.shape, bool(jnp.allclose(second.target + second.noise[:, 1], 3.0, atol=1e-4))
      ((20, 2, 2), True)
    """
    check_count("draws", draws)
    levels = path.times.shape[1]
    if levels < 2:
        raise ValueError(f"path has {levels} level, wanted at least 2.")
    velocity_key, noise_key, time_key = jax.random.split(as_key(key), 3)
    states, times, noise = (jnp.repeat(x[:, :-1], draws, axis=0) for x in (path.states, path.times, path.noise))
    v1 = lax.stop_gradient(hierarchical_velocities(velocity_key, model_fn, states, times, steps=(num_steps,)))
    v1 = v1.astype(times.dtype)
    grouped = v1.reshape(path.times.shape[0], draws, *v1.shape[1:])
    v0 = velocity_pairs(jax.random.normal(noise_key, grouped.shape, v1.dtype), grouped).reshape(v1.shape)
    tau = jax.random.uniform(time_key, times.shape[:1], times.dtype)
    vt, target, v0 = (x.astype(states.dtype) for x in (_between(tau, v0, v1), v1 - v0, v0))
    states, noise = (jnp.concatenate([x, v[:, None]], axis=1) for x, v in ((states, vt), (noise, v0)))
    return HierarchicalPath(jnp.concatenate([times, tau[:, None]], axis=1), states, target, noise)


def hierarchical_velocities(
    key: jax.Array | int, model_fn: Model, states: jax.Array, times: jax.Array, *, steps: tuple[int, ...]
) -> jax.Array:
    """Draw the velocity of a level at each state and time, from the law that the levels below have learned.

    Normal noise follows the levels below by Euler steps. At `states[:, :1]` this draws velocities of places.

    Args:
      key: typed PRNG key or int seed, of the noise of the levels below.
      model_fn: `model_fn(states, times) -> target`, what a model learned from the fields of `hierarchical_path`.
      states: `[B, L, ...]`, states of the first L levels, floating point.
      times: `[B, L]`, their times, in [0, 1).
      steps: number of Euler steps of each level below, static; a flow of D levels has D - L of them. The model is
        evaluated as often as their product says.

    Returns:
      `[B, ...]`, velocities, in the dtype of the states; half precision is drawn and added up in float32.

    Raises:
      TypeError: if the states are not floating point or the steps are no static ints.
      ValueError: if shapes do not match or there are no steps.

    References:
      Zhang et al., Towards hierarchical rectified flow, 2025 (arXiv 2502.17436).

    Examples:
      >>> to_three = lambda states, times: (3.0 - states[:, 1]) / (1 - times[:, 1, None])
      >>> hierarchical_velocities(0, to_three, jnp.zeros((2, 1, 1)), jnp.zeros((2, 1)), steps=(4,)).tolist()
      [[3.0], [3.0]]
    """
    check_floating("states", states)
    check_shape("times", times, states.shape[:2])
    _check_levels("steps", steps)
    return _draw(model_fn, as_key(key), states, times, steps).astype(states.dtype)


def hierarchical_trajectories(
    key: jax.Array | int, model_fn: Model, x0: jax.Array, *, steps: tuple[int, ...]
) -> jax.Array:
    """Return the places through which a flow of several levels takes noise to samples, by Euler steps at every level.

    At each step every item draws a velocity, which starts as fresh normal noise and follows the levels below; then the
    item moves with it. A single step in place samples already from the law of the data, if the model is exact and the
    steps below are many. With many steps in place the draws average out, and the items follow the mean velocity.

    Args:
      key: typed PRNG key or int seed, of the noise below the first level.
      model_fn: `model_fn(states, times) -> target`, what a model learned from the fields of `hierarchical_path`: states
        `[B, D, ...]` and times `[B, D]`.
      x0: `[B, ...]`, noise to start from, floating point.
      steps: number of Euler steps of each level, places first, static. The model is evaluated as often as their product
        says. `(n,)` is a plain flow. A last level of 1 step is no level, unless its noise was paired: its velocity is
        noise + model(noise).

    Returns:
      `[steps[0] + 1, B, ...]`, places at the times 0, 1 / steps[0], ..., 1, in the dtype of the noise; the last are the
      samples.

    Raises:
      TypeError: if the noise is not floating point or the steps are no static ints.
      ValueError: if there are no steps or a number of steps is below 1.

    References:
      Zhang et al., Towards hierarchical rectified flow, 2025 (arXiv 2502.17436).

    Examples:
      >>> to_three = lambda s, t: (3.0 - s[:, 0] - s[:, 1]) / (1 - t[:, 1, None])
      >>> hierarchical_trajectories(0, to_three, jnp.zeros((1, 1)), steps=(1, 4))[:, 0, 0].tolist()
      [0.0, 3.0]
    """
    check_floating("x0", x0)
    _check_levels("steps", steps)
    dtype = weight_dtype(x0.dtype)
    nothing = jnp.zeros((x0.shape[0], 0, *x0.shape[1:]), x0.dtype), jnp.zeros((x0.shape[0], 0), dtype)
    places = _follow(model_fn, as_key(key), *nothing, x0.astype(dtype), steps)[1]
    return jnp.concatenate([x0[None], places.astype(x0.dtype)])


def _draw(model_fn, key, states, times, steps):
    """What normal noise of the next level becomes."""
    key, noise_key = jax.random.split(key)
    start = jax.random.normal(noise_key, (states.shape[0], *states.shape[2:]), weight_dtype(states.dtype))
    return _follow(model_fn, key, states, times, start, steps)[0]


def _follow(model_fn, key, states, times, start, steps):
    """Where the next level arrives from `start`, and all its states on the way."""
    step = bind(given(_step, model_fn), states, times, steps=tuple(steps))
    (_, last), way = scan(step, (key, start), jnp.arange(steps[0], dtype=start.dtype) / steps[0])
    return last, way


def _step(model_fn, states, times, carry, t, *, steps):
    key, x = carry
    key, below_key = jax.random.split(key)
    states = jnp.concatenate([states, x.astype(states.dtype)[:, None]], axis=1)
    times = jnp.concatenate([times, jnp.full((times.shape[0], 1), t, times.dtype)], axis=1)
    below = steps[1:]
    velocity = _draw(model_fn, below_key, states, times, below) if below else model_fn(states, times)
    x = x + velocity.astype(x.dtype) / steps[0]
    return (key, x), x


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


def _check_levels(name: str, counts: tuple[int, ...]) -> None:
    if not isinstance(counts, tuple | list):
        raise TypeError(f"{name} is {counts!r}, wanted a tuple of one static int for each level.")
    if not counts:
        raise ValueError(f"{name} is {counts!r}, wanted at least one level.")
    for level, count in enumerate(counts):
        check_count(f"{name}[{level}]", count)
