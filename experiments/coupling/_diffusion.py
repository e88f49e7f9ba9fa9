"""Diffusion and consistency models of images: one small network, their losses and their samplers.

The network sees the noisy image scaled to unit variance, and its output is mixed with the image so that a small one
need not hand on the noise of every pixel (Karras et al., 2022, arXiv 2206.00364).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.coupling._flows import squared_norm, velocity
from minibatch_jax.coupling import conditional_path

DATA_DEVIATION = 0.7
LEAST, MOST, LEVELS, CURVE = 0.002, 80.0, 18, 7.0
"""standard deviations of the noise of a consistency model, their number, and how densely they lie near the least"""
BETWEEN = 0.8
"""noise added between the two steps of a consistency model"""


class Estimate(NamedTuple):
    """What a network makes of `image * x + noise * z`: the image x and the noise z, both `[B, D]`."""

    x: jax.Array
    z: jax.Array


def estimate(params, xt: jax.Array, t: jax.Array, image: jax.Array, noise: jax.Array) -> Estimate:
    """Image and noise in `xt` [B, D], in which they have the factors `image` and `noise` [B], at the times `t` [B]."""
    a, s = image[:, None], noise[:, None]
    size = jnp.sqrt(s**2 + (DATA_DEVIATION * a) ** 2)
    out = velocity(params, xt / size, t)
    x = (DATA_DEVIATION**2 * a * xt / size + DATA_DEVIATION * s * out) / size
    z = (s * xt / size - DATA_DEVIATION * a * out) / size
    return Estimate(x, z)


def diffusion_losses(params, key: jax.Array, x: jax.Array, noise: jax.Array) -> jax.Array:
    """Squared error `[B]` of the noise that the network finds, at random times of a cosine schedule."""
    path = conditional_path(key, noise, x, path="cosine")
    return squared_norm(estimate(params, path.xt, path.t, *cosine_factors(path.t)).z - noise)


def ddim(params, noise: jax.Array, num_steps: int) -> jax.Array:
    """Images from noise `[N, D]` by so many deterministic steps (Song et al., 2020, arXiv 2010.02502)."""

    def move(xt, i):
        t, later = (jnp.full(len(noise), (i + k) / num_steps) for k in (0, 1))
        found = estimate(params, xt, t, *cosine_factors(t))
        image, left = cosine_factors(later)
        return image[:, None] * found.x + left[:, None] * found.z, None

    return jax.lax.scan(move, noise, jnp.arange(num_steps, dtype=jnp.float32))[0]


def cosine_factors(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Factors of the image and of the noise at times from 0, all noise, to 1, all image."""
    return jnp.sin(jnp.pi / 2 * t), jnp.cos(jnp.pi / 2 * t)


def noise_levels() -> jax.Array:
    """Standard deviations `[LEVELS]` of the noise, rising."""
    low, high = LEAST ** (1 / CURVE), MOST ** (1 / CURVE)
    return (low + jnp.arange(LEVELS) / (LEVELS - 1) * (high - low)) ** CURVE


def consistent(params, xt: jax.Array, deviation: jax.Array) -> jax.Array:
    """The image `[B, D]` at the end of the path through `xt`, with noise of the deviations [B]; at the least, `xt`."""
    t = jnp.log(deviation / LEAST) / jnp.log(MOST / LEAST)
    size = jnp.sqrt(deviation**2 + DATA_DEVIATION**2)[:, None]
    beyond = (deviation - LEAST)[:, None]
    out = velocity(params, xt / size, t)
    return DATA_DEVIATION**2 / (beyond**2 + DATA_DEVIATION**2) * xt + DATA_DEVIATION * beyond / size * out


def consistency_losses(params, key: jax.Array, x: jax.Array, noise: jax.Array) -> jax.Array:
    """Squared distance `[B]` of what the network makes of two neighboring noise levels, the lower one held fixed."""
    level = jax.random.randint(key, x.shape[:1], 0, LEVELS - 1)
    lower, higher = (noise_levels()[level + k] for k in (0, 1))
    target = jax.lax.stop_gradient(consistent(params, x + lower[:, None] * noise, lower))
    return squared_norm(consistent(params, x + higher[:, None] * noise, higher) - target)


def consistency_samples(params, noise: jax.Array, num_steps: int) -> jax.Array:
    """Images from noise `[N, D]` by one step or two."""
    x = consistent(params, MOST * noise, jnp.full(len(noise), MOST))
    if num_steps == 1:
        return x
    again = jax.random.normal(jax.random.key(2303), noise.shape)
    return consistent(params, x + BETWEEN * again, jnp.full(len(noise), BETWEEN))
