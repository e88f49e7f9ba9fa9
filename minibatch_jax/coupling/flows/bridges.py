"""Schroedinger-bridge flow matching: entropic pairs and Brownian bridges between their ends.

A Schroedinger bridge of noise sigma pairs the ends by the entropic plan at epsilon `2 sigma^2`, with the squared
distance as cost, and joins the two ends of a pair by a Brownian bridge.

References:
  Tong et al., Simulation-free Schrodinger bridges via score and flow matching, 2023 (arXiv 2307.03672).

Method: Schrödinger bridge CFM
Paper: 2307.03672
Experiment: schroedinger_bridge
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_floating, check_number, check_shape
from minibatch_jax.coupling.costs import squared_euclidean_cost
from minibatch_jax.coupling.entropic.balanced import sinkhorn
from minibatch_jax.coupling.flows._times import times_of_pairs
from minibatch_jax.coupling.flows.matching import FlowPairs, flow_matching_pairs
from minibatch_jax.coupling.flows.paths import NoisyPath
from minibatch_jax.weights import weight_dtype


def schroedinger_bridge_pairs(
    key: jax.Array | int,
    x0: jax.Array,
    x1: jax.Array,
    sigma: float | jax.Array,
    *,
    mode: str = "columns",
    tolerance: float | None = 1e-3,
    max_iterations: int = 1000,
) -> FlowPairs:
    """Pair two batches by the entropic plan of a Schroedinger bridge, at epsilon `2 sigma^2`.

    Args:
      key: typed PRNG key or int seed.
      x0: `[B0, ...]`, sources, floating point.
      x1: `[B1, ...]`, targets, floating point, with the shape of `x0` after the first axis.
      sigma: noise of the bridge, > 0, may be traced.
      mode: how to draw pairs from the plan, a mode of `sample_pairs`; `'columns'` draws one source for each target.
      tolerance: the solver stops when its marginal error is at most this; None runs exactly `max_iterations`.
      max_iterations: most iterations of the solver, static.

    Returns:
      `FlowPairs(x0, x1, weights, source, target, state)`. The state is the `SolverReport`: where `converged` is False,
      as for a sigma that is small against the distances, sources are not used equally often: raise `max_iterations`.

    Raises:
      TypeError: if a batch is not floating point or a number has the wrong type.
      ValueError: if the items of the batches differ in shape, sigma is not positive or the mode is unknown.

    References:
      Tong et al., Simulation-free Schrodinger bridges via score and flow matching, 2023 (arXiv 2307.03672).

    Examples:
      >>> pairs = schroedinger_bridge_pairs(0, jnp.array([[0.0], [9.0]]), jnp.array([[9.5], [0.5]]), sigma=0.5)
      >>> pairs.x0[:, 0].tolist(), pairs.x1[:, 0].tolist()
      ([9.0, 0.0], [9.5, 0.5])
    """
    check_number("sigma", sigma, 0, open_low=True)
    cost = squared_euclidean_cost(x0, x1)
    epsilon = 2 * jnp.asarray(sigma, cost.dtype) ** 2
    plan = sinkhorn(cost, epsilon=epsilon, tolerance=tolerance, max_iterations=max_iterations)
    return flow_matching_pairs(key, x0, x1, plan, mode=mode)


def bridge_path(
    key: jax.Array | int,
    x0: jax.Array,
    x1: jax.Array,
    sigma: float | jax.Array,
    t: jax.Array | None = None,
) -> NoisyPath:
    """Draw a place on the Brownian bridge of each pair: variance `sigma^2 t (1 - t)` around the straight line.

    Args:
      key: typed PRNG key or int seed.
      x0: `[S, ...]`, floating point.
      x1: `[S, ...]`, with the shape of `x0`.
      sigma: noise of the bridge, > 0, may be traced.
      t: `[S]`, times; uniform by default. Clipped to [1e-4, 1 - 1e-4], as the velocity is unbounded at the ends.

    Returns:
      `NoisyPath(t, xt, ut, noise)`; ut is the velocity of the probability flow of the bridge, and the score is
      `-noise / (sigma sqrt(t (1 - t)))`. `score_weight(t, sigma, path="bridge")` weighs a score model.

    Raises:
      TypeError: if `x0` is not floating point or the key is a raw array.
      ValueError: if shapes do not match or sigma is not positive.

    References:
      Tong et al., Simulation-free Schrodinger bridges via score and flow matching, 2023 (arXiv 2307.03672).

    Examples:
      >>> path = bridge_path(0, jnp.zeros((1, 2)), jnp.ones((1, 2)), 0.3, t=jnp.array([0.5]))
      >>> path.ut.tolist()
      [[1.0, 1.0]]
    """
    check_floating("x0", x0)
    check_shape("x1", x1, x0.shape)
    check_number("sigma", sigma, 0, open_low=True)
    t_key, noise_key = jax.random.split(as_key(key))
    given = jnp.promote_types(x0.dtype, x1.dtype)
    dtype = weight_dtype(given)
    drawn = jnp.clip(times_of_pairs(t_key, x0, t, dtype), 1e-4, 1 - 1e-4)
    time = jnp.expand_dims(drawn, range(1, x0.ndim))
    noise = jax.random.normal(noise_key, x0.shape, dtype)
    away = jnp.asarray(sigma, dtype) * jnp.sqrt(time * (1 - time)) * noise
    start, end = x0.astype(dtype), x1.astype(dtype)
    velocity = end - start + (1 - 2 * time) / (2 * time * (1 - time)) * away
    place = (1 - time) * start + time * end + away
    return NoisyPath(drawn, *(x.astype(given) for x in (place, velocity, noise)))
