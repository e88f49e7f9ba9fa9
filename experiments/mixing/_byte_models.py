"""Byte transformers of any width, trained on mixtures of domains: many at once, one after the other in one program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.engine import descend
from experiments.shared.backbones import ByteTransformer, Params, functional
from experiments.shared.text_domains import byte_losses

LENGTH = 32


class ByteModel:
    """The functions of a byte transformer with one block of this width; `byte_model` keeps one of each."""

    def __init__(self, width: int):
        self._build = functools.partial(ByteTransformer, length=LENGTH, width=width, depth=1, heads=2)
        self.apply, _ = functional(self._build(rngs=nnx.Rngs(0)))

    def init(self, key: jax.Array) -> Params:
        """New parameters."""
        return functional(self._build(rngs=nnx.Rngs(key)))[1]

    @functools.cached_property
    def size(self) -> int:
        """Number of parameters."""
        return sum(
            np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(jax.eval_shape(self.init, jax.random.key(0)))
        )

    def losses(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Mean cross-entropy of each window `[B]` in nats a byte."""
        return byte_losses(self.apply, params, tokens)


@functools.cache
def byte_model(width: int) -> ByteModel:
    """The functions of a model of this width, the same object each time, so that programs are compiled once."""
    return ByteModel(width)


@functools.cache
def trainer(model: ByteModel, steps: int, batch_size: int, learning_rate: float) -> Callable[..., Params]:
    """Compiled `train_all` of these options: a function of starts, keys, windows and mixtures."""
    options = {"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate}
    return jax.jit(functools.partial(train_all, model, **options))


def train_all(
    model: ByteModel,
    starts: Params,
    keys: jax.Array,
    windows: jax.Array,
    mixtures: jax.Array,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> Params:
    """Parameters `[S, ...]` of S models after Adam with a cosine decay, each on batches of its own mixture of domains.

    Args:
      model: their functions.
      starts: parameters `[S, ...]` to begin with.
      keys: `[S]`, of the batches.
      windows: `[K, M, L]` uint8, windows of each domain.
      mixtures: `[S, K]`.
      steps: of each model.
      batch_size: windows of a step.
      learning_rate: of the first step.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def step(carry, key, mixture):
        params, opt_state = carry
        domain_key, row_key = jax.random.split(key)
        domains = jax.random.choice(domain_key, windows.shape[0], (batch_size,), p=mixture)
        tokens = windows[domains, jax.random.randint(row_key, (batch_size,), 0, windows.shape[1])]
        grads = jax.grad(lambda p: jnp.mean(model.losses(p, tokens)))(params)
        return descend(optimizer, grads, params, opt_state), None

    def train_one(run):
        params, key, mixture = run
        carry = params, optimizer.init(params)
        keys = jax.random.split(key, steps)
        return jax.lax.scan(lambda carry, key: step(carry, key, mixture), carry, keys)[0][0]

    return jax.lax.map(train_one, (starts, keys, mixtures))


def map_models(function: Callable[..., Any], params: Params) -> Any:
    """Results of a function of parameters for each of `[S, ...]`, a model at a time."""
    return jax.lax.map(function, params)
