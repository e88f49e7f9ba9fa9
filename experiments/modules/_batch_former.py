"""The layer of BatchFormer in a training step of plain arrays, and the same layer with each example by itself."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from minibatch_jax.modules import BatchFormer

Leaves = list[jax.Array]


class Layer(NamedTuple):
    """What the layer is like, and whether it sees the batch or, as a control, each example by itself."""

    features: int = 64
    heads: int = 4
    dropout: float = 0.5
    across: bool = True

    def new(self, key: jax.Array) -> BatchFormer:
        """The module with new parameters."""
        return BatchFormer(self.features, num_heads=self.heads, dropout=self.dropout, rngs=nnx.Rngs(key))

    def start(self, key: jax.Array) -> tuple[Leaves, Leaves]:
        """Leaves of new parameters and random streams."""
        return split(self.new(key))

    def doubled(self, params: Leaves, streams: Leaves, features: jax.Array) -> tuple[jax.Array, Leaves]:
        """Features `[B, D]` followed by those after the layer, `[2 B, D]`, and the random streams after that."""
        graph, *structures = _structure(self)
        module = nnx.merge(graph, *(jax.tree.unflatten(s, x) for s, x in zip(structures, (params, streams))))
        both = module(features) if self.across else jnp.concatenate([features, alone(module, features)])
        return both, split(module)[1]

    def unchanged(self, params: Leaves, features: jax.Array) -> jax.Array:
        """Features after the module that is off."""
        module = self.new(jax.random.key(0))
        nnx.update(module, jax.tree.unflatten(_structure(self)[1], params))
        module.eval()
        return module(features)


def alone(module: BatchFormer, x: jax.Array) -> jax.Array:
    """The layer of the module with each example in a batch of its own: all of its attention is on itself."""
    values = module.attention.value(x)
    seen = values * module.dropout(jnp.ones_like(values[..., :1]))
    y = module.first_norm(x + module.dropout(module.attention.out(seen)))
    return module.second_norm(y + module.dropout(module.contract(module.dropout(nnx.relu(module.expand(y))))))


def split(module: BatchFormer) -> tuple[Leaves, Leaves]:
    """Leaves of the parameters and of the random streams."""
    _, params, streams = nnx.split(module, nnx.Param, ...)
    return jax.tree.leaves(params), jax.tree.leaves(streams)


@functools.cache
def _structure(layer: Layer) -> tuple[Any, Any, Any]:
    """The graph of the module, and the tree structures of its parameters and random streams."""
    graph, params, streams = nnx.split(nnx.eval_shape(lambda: layer.new(jax.random.key(0))), nnx.Param, ...)
    return graph, jax.tree.structure(params), jax.tree.structure(streams)
