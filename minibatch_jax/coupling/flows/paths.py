"""The path between the two ends of each pair: places to train a flow at, and the velocities there.

References:
  Tong et al., Improving and generalizing flow-based generative models with minibatch optimal transport, 2023
  (arXiv 2302.00482).
  Lipman et al., Flow matching for generative modeling, ICLR 2023 (arXiv 2210.02747), for `"target"`.
  Albergo & Vanden-Eijnden, Building normalizing flows with stochastic interpolants, ICLR 2023 (arXiv 2209.15571), for
  `"variance_preserving"`.
  Tong et al., Simulation-free Schrodinger bridges via score and flow matching, 2023 (arXiv 2307.03672), for the weight
  of the score.

Method: paths of a flow
Paper: 2302.00482, 2210.02747, 2209.15571
Experiment: ot_flow_matching
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_choice, check_floating, check_number, check_shape
from minibatch_jax.coupling.flows._times import times_of_pairs
from minibatch_jax.weights import weight_dtype

PATHS = ("straight", "variance_preserving", "target", "cosine")
FROM_NOISE = ("target", "cosine")
"""Paths whose sources are the noise."""


class ConditionalPath(NamedTuple):
    """A time, a place on the path at that time, and the velocity at that place.

    Attributes:
      t: `[S]`, in [0, 1), float32 at least; the others have the dtype of the ends.
      xt: `[S, ...]`, where the path is at t.
      ut: `[S, ...]`, velocity, the regression target of a flow model.
    """

    t: jax.Array
    xt: jax.Array
    ut: jax.Array


class NoisyPath(NamedTuple):
    """A place on a path with noise, and the regression targets of a flow and of a noise or score model.

    Attributes:
      t: `[S]`, in [0, 1), float32 at least; the others have the dtype of the ends.
      xt: `[S, ...]`, where the path is at t.
      ut: `[S, ...]`, velocity, the regression target of a flow model.
      noise: `[S, ...]`, standard Gaussian z of `xt = mean + sigma_t z`; the score is `-z / sigma_t`.
    """

    t: jax.Array
    xt: jax.Array
    ut: jax.Array
    noise: jax.Array


def conditional_path(
    key: jax.Array | int,
    x0: jax.Array,
    x1: jax.Array,
    sigma: float | jax.Array = 0.0,
    t: jax.Array | None = None,
    *,
    path: str = "straight",
    return_noise: bool = False,
) -> ConditionalPath | NoisyPath:
    """Draw a place on the path of each pair, and the velocity of the path there.

    With z a standard Gaussian and s = sigma, the places are

    - `"straight"`: `(1 - t) x0 + t x1 + s z`.
    - `"variance_preserving"`: `cos(pi t / 2) x0 + sin(pi t / 2) x1 + s z`.
    - `"target"`: `(1 - (1 - s) t) x0 + t x1`. The sources are the noise, z = x0, so that a coupling of noise and data
      acts; s is what is left of it at t = 1.
    - `"cosine"`: `(s + (1 - s) cos(pi t / 2)) x0 + sin(pi t / 2) x1`, z = x0 as for `"target"`.

    The velocity is the derivative of the place by t at fixed z. Brownian bridges are drawn by `bridge_path`.

    Args:
      key: typed PRNG key or int seed.
      x0: `[S, ...]`, floating point.
      x1: `[S, ...]`, with the shape of `x0`.
      sigma: standard deviation of the noise, at least 0, at most 1 where the sources are the noise, may be traced.
      t: `[S]`, times; uniform in [0, 1) by default.
      path: `"straight"`, `"variance_preserving"`, `"target"` or `"cosine"`.
      return_noise: whether to return z too, for a model of the noise or of the score.

    Returns:
      `ConditionalPath(t, xt, ut)`, or `NoisyPath(t, xt, ut, noise)` with `return_noise`.

    Raises:
      TypeError: if `x0` is not floating point or the key is no key.
      ValueError: if the batches differ in shape, sigma is out of range or the path is unknown, or if sigma is 0 and
        the noise is asked of a path that has none then.

    Examples:
      >>> path = conditional_path(0, jnp.zeros((2, 3)), jnp.ones((2, 3)), t=jnp.array([0.0, 0.25]))
      >>> path.xt[:, 0].tolist(), path.ut[:, 0].tolist()
      ([0.0, 0.25], [1.0, 1.0])
      >>> noise, data = jnp.full((1, 1), 2.0), jnp.ones((1, 1))
      >>> path = conditional_path(0, noise, data, 0.5, jnp.array([0.5]), path="target", return_noise=True)
      >>> path.xt.tolist(), path.ut.tolist(), path.noise.tolist()
      ([[2.0]], [[0.0]], [[2.0]])
    """
    check_floating("x0", x0)
    check_shape("x1", x1, x0.shape)
    check_choice("path", path, PATHS)
    from_noise = path in FROM_NOISE
    check_number("sigma", sigma, 0, 1 if from_noise else None, open_low=return_noise and not from_noise)
    t_key, noise_key = jax.random.split(as_key(key))
    given = jnp.promote_types(x0.dtype, x1.dtype)
    dtype = weight_dtype(given)
    drawn = times_of_pairs(t_key, x0, t, dtype)
    sigma = jnp.asarray(sigma, dtype)
    (start, end), (start_slope, end_slope) = _ends(path, jnp.expand_dims(drawn, range(1, x0.ndim)), sigma)
    source, target = x0.astype(dtype), x1.astype(dtype)
    xt = start * source + end * target
    noise = source if from_noise else jax.random.normal(noise_key, x0.shape, dtype)
    if not from_noise:
        xt += sigma * noise
    ut = start_slope * source + end_slope * target
    xt, ut, noise = (x.astype(given) for x in (xt, ut, noise))
    return NoisyPath(drawn, xt, ut, noise) if return_noise else ConditionalPath(drawn, xt, ut)


def score_weight(t: jax.Array, sigma: float | jax.Array, *, path: str = "straight") -> jax.Array:
    """Return the weight of the score in the loss of a score model: `2 sigma_t / sigma^2`.

    sigma_t is the standard deviation of the noise of the path at t, and the score is `-z / sigma_t`. Then
    `sigma^2 / 2 x weight x score` is `-z`, whose variance is 1 at every time: all times count alike in the loss of a
    model of the score.

    Args:
      t: floating point, times in [0, 1].
      sigma: the sigma of the path, > 0, may be traced.
      path: a path of `conditional_path`, or `"bridge"` for `bridge_path`, where sigma_t is `sigma sqrt(t (1 - t))`.

    Returns:
      The shape of `t`, float32 (float64 if t is).

    Raises:
      TypeError: if the times are not floating point or sigma is no number.
      ValueError: if sigma is not positive or the path is unknown.

    References:
      Tong et al., Simulation-free Schrodinger bridges via score and flow matching, 2023 (arXiv 2307.03672).

    Examples:
      >>> score_weight(jnp.array([0.0, 0.5]), 0.5, path="bridge").tolist()
      [0.0, 2.0]
    """
    t = jnp.asarray(t)
    check_floating("t", t)
    t = t.astype(weight_dtype(t.dtype))
    check_choice("path", path, (*PATHS, "bridge"))
    check_number("sigma", sigma, 0, open_low=True)
    sigma = jnp.asarray(sigma, t.dtype)
    if path == "bridge":
        deviation = sigma * jnp.sqrt(t * (1 - t))
    elif path in FROM_NOISE:
        deviation = _ends(path, t, sigma)[0][0]
    else:
        deviation = jnp.full_like(t, sigma)
    return 2 * deviation / sigma**2


def _ends(path: str, t: jax.Array, sigma: jax.Array) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Factors of the source and the target at time t, and their slopes."""
    one = jnp.ones_like(t)
    if path == "straight":
        return (1 - t, t), (-one, one)
    if path == "target":
        return (1 - (1 - sigma) * t, t), (-(1 - sigma) * one, one)
    quarter = jnp.pi / 2
    cos, sin = jnp.cos(quarter * t), jnp.sin(quarter * t)
    if path == "variance_preserving":
        return (cos, sin), (-quarter * sin, quarter * cos)
    return (sigma + (1 - sigma) * cos, sin), (-(1 - sigma) * quarter * sin, quarter * cos)
