"""The velocity network of the flow experiments, its Euler steps, and distances of sets of images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.datasets import arrays
from experiments.engine import mlp

EULER_STEPS = (2, 4, 8, 32)


TIME_FEATURES = 9
LEAST_TIME_LEFT = 1 / 32


def velocity(params, x: jax.Array, t: jax.Array) -> jax.Array:
    """Velocity `[B, D]` at places `x` [B, D] and times `t` [B]."""
    angles = t[:, None] * (jnp.pi * jnp.arange(1, 5))[None, :]
    return mlp(params, jnp.concatenate([x, t[:, None], jnp.sin(angles), jnp.cos(angles)], axis=1))


def velocity_to_image(params, x: jax.Array, t: jax.Array, condition: jax.Array | None = None) -> jax.Array:
    """Velocity `[B, D]` at `x` [B, D] and times `t` [B]: towards the image that the network makes of x.

    A small network can make an image, but not hand on the noise of every pixel, which the velocity has too. It also
    sees the condition `[B, C]`, if one is given.
    """
    seen = x if condition is None else jnp.concatenate([x, condition], axis=1)
    return (velocity(params, seen, t) - x) / jnp.maximum(1 - t, LEAST_TIME_LEFT)[:, None]


def trajectory(params, noise: jax.Array, num_steps: int, field: Callable | None = None) -> tuple[jax.Array, jax.Array]:
    """Where Euler steps from `noise` [N, D] arrive, and the velocities `[num_steps, N, D]` of the field on the way.

    The field is `velocity` by default.
    """

    def move(x, t):
        v = (field or velocity)(params, x, jnp.full(len(x), t))
        return x + v / num_steps, v

    return jax.lax.scan(move, noise, jnp.arange(num_steps, dtype=jnp.float32) / num_steps)


def sliced_distance(x: jax.Array, items: jax.Array, directions: jax.Array) -> jax.Array:
    """Root mean square over directions `[D, L]` of the 2-Wasserstein distance of two sets `[N, D]` along them."""
    gaps = jnp.sort(x @ directions, axis=0) - jnp.sort(items @ directions, axis=0)
    return jnp.sqrt(jnp.mean(gaps**2))


def random_directions(key: jax.Array, size: int, number: int) -> jax.Array:
    """Unit vectors `[size, number]`."""
    directions = jax.random.normal(key, (size, number))
    return directions / jnp.linalg.norm(directions, axis=0, keepdims=True)


def squared_norm(x: jax.Array) -> jax.Array:
    """Squared length along the last axis."""
    return jnp.sum(x**2, axis=-1)


def images(dataset: str, split: str) -> np.ndarray:
    """Images `[N, D]` with pixels in [-1, 1]."""
    pixels = arrays(dataset, split)["image"][..., 0].astype(np.float32)
    if dataset == "digits":
        return pixels.reshape(len(pixels), -1) / 8 - 1
    return pixels.reshape(len(pixels), 14, 2, 14, 2).mean((2, 4)).reshape(len(pixels), -1) / 127.5 - 1
