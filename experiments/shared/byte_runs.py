"""Runs of a small byte transformer on the text domains, with mixtures and learning rates given step by step.

`train` scans over rows of a table of mixtures `[T, K]` and a vector of rates `[T]`, so that all schedules of one length
share a compiled program, and a run can go on where it was with other schedules. Each domain is read without replacement
and goes on where it was, however its proportion changes.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.engine import descend
from experiments.shared.backbones import Apply, ByteTransformer, functional
from experiments.shared.text_domains import byte_losses, domain_losses
from minibatch_jax import sampling

LENGTH = 32
"""bytes of a window"""


class Size(NamedTuple):
    """Of the model and of its batches."""

    width: int = 32
    depth: int = 2
    batch_size: int = 32


SMALL = Size()


class Run(NamedTuple):
    """A training run at some step: parameters, state of Adam, and the sampler's place in each domain."""

    params: Any
    opt_state: Any
    place: Any

    def epochs(self) -> jax.Array:
        """Passes over each domain so far, `[K]`."""
        return self.place.epochs + self.place.position / self.place.by_domain.sizes


def start_run(seed: int, domain: jax.Array, domains: int, size: Size = SMALL) -> Run:
    """A new model that has seen nothing, with the domain `[N]` of each window to train on."""
    model_key, key = jax.random.split(jax.random.key(seed))
    _, params = functional(_network(size, nnx.Rngs(model_key)))
    sampler = sampling.mixture(domains, size.batch_size, lambda step: jnp.ones(domains))
    return Run(params, optax.scale_by_adam().init(params), sampler.init(key, domains=domain))


@functools.partial(jax.jit, static_argnames="size")
def train(run: Run, tokens: jax.Array, mixtures: jax.Array, rates: jax.Array, size: Size = SMALL) -> Run:
    """The run after one step of Adam for each row of `mixtures` `[T, K]` and of `rates` `[T]`."""
    apply, first = apply_of(size), run.place.step
    sampler = sampling.mixture(mixtures.shape[1], size.batch_size, lambda step: mixtures[step - first])

    def step(run, rate):
        rows, place = sampler.sample(run.place)
        batch = tokens[rows.indices]
        grads = jax.grad(lambda params: jnp.mean(byte_losses(apply, params, batch)))(run.params)
        optimizer = optax.chain(optax.scale_by_adam(), optax.scale(-rate))
        updated: Any = descend(optimizer, grads, run.params, (run.opt_state, optax.ScaleState()))
        return Run(updated[0], updated[1][0], place), None

    return jax.lax.scan(step, run, rates)[0]


@functools.partial(jax.jit, static_argnames="size")
def held_out_losses(params: Any, tokens: jax.Array, size: Size = SMALL) -> jax.Array:
    """Loss of each domain `[K]` in nats a byte on held-out windows `[K, M, L]`."""
    return domain_losses(apply_of(size), params, tokens)


def values(schedule: Any, num_steps: int) -> jax.Array:
    """The values of a schedule at its first steps, `[T]` or `[T, K]`."""
    return jax.vmap(schedule)(jnp.arange(num_steps))


@functools.cache
def apply_of(size: Size) -> Apply:
    """The model without its parameters."""
    return functional(_network(size, nnx.Rngs(0)))[0]


def _network(size: Size, rngs: nnx.Rngs) -> ByteTransformer:
    return ByteTransformer(length=LENGTH, width=size.width, depth=size.depth, rngs=rngs)
