"""Rounds of labeling that the recipes of active learning share: digits of which few have a label."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.recipes import digits

POOL, START, BUDGET, ROUNDS, STEPS = 512, 20, 20, 4, 60
LABELS = START + ROUNDS * BUDGET


@functools.cache
def images() -> jax.Array:
    """Return the images of the pool, `[N, 64]`."""
    with jax.ensure_compile_time_eval():  # the first to ask may be traced
        return digits.train()["x"][:POOL]


@functools.cache
def start() -> jax.Array:
    """Return a mask `[N]` of 0 and 1: the first images have a label."""
    return jnp.asarray(np.arange(POOL) < START, jnp.float32)


def fit(labeled: jax.Array, seed: int = 0) -> Any:
    """Return the parameters of a classifier after steps on all images that have a label, `labeled` `[N]` of 0 and 1."""
    return _fit(digits.init(seed), labeled, digits.first(digits.train(), POOL), losses=digits.losses)


@functools.partial(jax.jit, static_argnames="losses")
def _fit(params: Any, labeled: jax.Array, data: digits.Batch, losses: Callable[..., jax.Array]) -> Any:
    def step(carry, _):
        params, opt_state = carry
        grads = jax.grad(lambda p: jnp.vdot(labeled, losses(p, data)) / jnp.sum(labeled))(params)
        updates, opt_state = digits.OPTIMIZER.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    return jax.lax.scan(step, (params, digits.OPTIMIZER.init(params)), length=STEPS)[0][0]


@jax.jit
def outputs(params: Any) -> tuple[jax.Array, jax.Array]:
    """Return logits `[N, 10]` and the inputs of the last layer, `[N, 64]`, of the pool."""
    hidden = jax.nn.relu(images() @ params[0]["w"] + params[0]["b"])
    return hidden @ params[1]["w"] + params[1]["b"], hidden


@functools.cache
def random_accuracy() -> float:
    """Return the test accuracy if images to label are drawn at random, the mean over a few draws."""
    found = []
    for seed in range(4):
        rows = START + np.random.default_rng(seed).permutation(POOL - START)[: LABELS - START]
        found.append(digits.accuracy(fit(start().at[rows].set(1))))
    return float(np.mean(found))


def check(labeled: jax.Array) -> None:
    """Raise unless as many images have a label as were paid for, and they taught."""
    mask = np.asarray(labeled)
    assert np.all((mask == 0) | (mask == 1)) and mask.sum() == LABELS and np.all(mask >= start())
    assert digits.accuracy(fit(labeled)) > digits.accuracy(fit(start())) + 0.1


# Several classes for each image: is the digit even, above 4, a multiple of 3, round?


@functools.cache
def properties() -> jax.Array:
    """Return which of four properties each image of the pool has, `[N, 4]` of 0 and 1."""
    return _properties(digits.train()["y"][:POOL])


def _properties(y: jax.Array) -> jax.Array:
    found = [y % 2 == 0, y > 4, y % 3 == 0, (y == 0) | (y == 6) | (y == 8) | (y == 9)]
    return jnp.stack(found, axis=1).astype(jnp.float32)


def fit_properties(labeled: jax.Array) -> Any:
    """Return the parameters of a network of four outputs after steps on all images that have labels."""
    start = digits.init_mlp(jax.random.key(0), digits.PIXELS, digits.HIDDEN, 4)
    return _fit(start, labeled, {"x": images(), "y": properties()}, losses=_property_losses)


def _property_losses(params: Any, batch: digits.Batch) -> jax.Array:
    return jnp.mean(optax.sigmoid_binary_cross_entropy(digits.mlp(params, batch["x"]), batch["y"]), axis=1)


def property_logits(params: Any) -> jax.Array:
    """Return the logits `[N, 4]` of all images of the pool."""
    return digits.mlp(params, images())


def property_accuracy(params: Any) -> float:
    """Return the fraction of properties of test images that a network gets right."""
    right = (digits.mlp(params, digits.held_out()["x"]) > 0) == (_properties(digits.held_out()["y"]) == 1)
    return float(np.mean(right))
