"""A byte transformer with low-rank adapters (LoRA), in two parts: up to the last block, and from there on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from experiments.engine import minimize
from experiments.shared.backbones import ByteTransformer

PROJECTIONS = ("query", "value")
Params = Any
Adapters = Any


class AdaptedBytes:
    """The functions of a model of these sizes; a base is its parameters, adapters are trained beside them."""

    def __init__(self, length: int, width: int, depth: int, rank: int):
        self._build = functools.partial(ByteTransformer, length=length, width=width, depth=depth)
        self._graph = nnx.split(self._build(rngs=nnx.Rngs(0)))[0]
        self._depth, self._width, self._rank = depth, width, rank
        self.last = f"block_{depth - 1}"

    def base(self, seed: int) -> Params:
        """New parameters."""
        return nnx.to_pure_dict(nnx.split(self._build(rngs=nnx.Rngs(seed)))[1])

    def adapters(self, key: jax.Array) -> Adapters:
        """By block and projection, factors `a` `[width, rank]`, random, and `b` `[rank, width]`, 0."""

        def factors(key):
            a = jax.random.normal(key, (self._width, self._rank)) * self._width**-0.5
            return {"a": a, "b": jnp.zeros((self._rank, self._width))}

        keys = jax.random.split(key, (self._depth, len(PROJECTIONS)))
        return {f"block_{i}": {name: factors(k) for name, k in zip(PROJECTIONS, row)} for i, row in enumerate(keys)}

    def merged(self, base: Params, adapters: Adapters) -> Params:
        """The parameters with the products of the factors added to the projections."""
        blocks = dict(base["blocks"])
        for block, pairs in adapters.items():
            changed = {n: {"kernel": blocks[block][n]["kernel"] + f["a"] @ f["b"]} for n, f in pairs.items()}
            blocks[block] = blocks[block] | changed
        return base | {"blocks": blocks}

    def before_last(self, params: Params, tokens: jax.Array) -> jax.Array:
        """What enters the last block `[B, L, width]`."""
        model = nnx.merge(self._graph, params)
        before = jnp.concatenate([jnp.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)
        hidden = model.bytes(before) + model.places[: tokens.shape[1]][None]
        for number in range(self._depth - 1):
            hidden = model.blocks[f"block_{number}"](hidden)
        return hidden

    def last_losses(self, params: Params, hidden: jax.Array, tokens: jax.Array) -> jax.Array:
        """Cross-entropy of each window `[B]` in nats a byte, from what enters the last block."""
        model = nnx.merge(self._graph, params)
        logits = model.head(model.norm(model.blocks[self.last](hidden)))
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, tokens), axis=1)

    def losses(self, params: Params, tokens: jax.Array) -> jax.Array:
        """Cross-entropy of each window `[B]` in nats a byte."""
        return self.last_losses(params, self.before_last(params, tokens), tokens)

    def pretrained(self, tokens: jax.Array, steps: int, batch_size: int, learning_rate: float) -> Params:
        """A base after Adam on random windows `[N, L]`, in one compiled program."""
        optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
        rows = jax.random.randint(jax.random.key(0), (steps, batch_size), 0, len(tokens))

        def gradient(params, rows):
            return jax.grad(lambda params: jnp.mean(self.losses(params, tokens[rows])))(params)

        return jax.jit(functools.partial(minimize, optimizer, gradient))(self.base(0), rows)
