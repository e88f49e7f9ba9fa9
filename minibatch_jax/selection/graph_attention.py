"""Graph attention over lists of neighbors: a layer of GATv2, and the attention that each row receives.

References:
  Brody et al., How attentive are graph attention networks?, ICLR 2022 (arXiv 2105.14491).
"""

from typing import Any

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key
from minibatch_jax._vector import nonzero
from minibatch_jax.selection.instance_graphs import InstanceGraph

SLOPE = 0.2

Layer = dict[str, jax.Array]


def init_layer(key: jax.Array | int, width: int, heads: int, out: int, dtype: Any = jnp.float32) -> Layer:
    """Return random parameters of a graph attention layer.

    Args:
      key: int seed or key.
      width: of its inputs.
      heads: H.
      out: F, width of each head.
      dtype: of the parameters.

    Returns:
      "target" and "source" `[width, H, F]`, "edge" and "attention" `[H, F]`, "bias" `[H * F]`.

    Examples:
      >>> init_layer(0, 3, 2, 4)["source"].shape
      (3, 2, 4)
    """
    keys = jax.random.split(as_key(key), 3)
    glorot = jax.nn.initializers.glorot_normal(in_axis=0, out_axis=(1, 2))
    return {
        "target": glorot(keys[0], (width, heads, out), dtype),
        "source": glorot(keys[1], (width, heads, out), dtype),
        "edge": jnp.zeros((heads, out), dtype),
        "attention": jax.random.normal(keys[2], (heads, out), dtype) / out**0.5,
        "bias": jnp.zeros(heads * out, dtype),
    }


def attention_layer(layer: Layer, inputs: jax.Array, graph: InstanceGraph) -> tuple[jax.Array, jax.Array]:
    """Return the outputs of a graph attention layer (GATv2) and the attention of each row to its neighbors.

    With inputs h, the edge from row i to its neighbor j of weight w has the score
    `attention . leaky_relu(target h_i + source h_j + edge w)`. A softmax over the neighbors of a row makes them its
    attention, and its output is the bias plus the mean of `source h_j` by attention.

    Args:
      layer: as `init_layer` returns it.
      inputs: `[N, width]`, floating point.
      graph: K neighbors of each row.

    Returns:
      `[N, H * F]`, and `[N, K, H]`, of sum 1 over the neighbors; 0 for a row without neighbors.

    References:
      Brody et al., ICLR 2022 (arXiv 2105.14491).

    Examples:
      >>> graph = InstanceGraph(jnp.array([[1, 2], [0, 2]]), jnp.array([[1.0, 0.0], [1.0, 0.0]]))
      >>> attention_layer(init_layer(0, 1, 1, 1), jnp.ones((2, 1)), graph)[1][:, :, 0].tolist()
      [[1.0, 0.0], [1.0, 0.0]]
    """
    size = inputs.shape[0]
    listed = graph.neighbors < size
    sources = jnp.einsum("nd,dhf->nhf", inputs, layer["source"])
    targets = jnp.einsum("nd,dhf->nhf", inputs, layer["target"])
    seen = sources[jnp.minimum(graph.neighbors, size - 1)]
    edges = graph.weights.astype(inputs.dtype)[:, :, None, None] * layer["edge"][None, None]
    mixed = jax.nn.leaky_relu(targets[:, None] + seen + edges, SLOPE)
    scores = jnp.where(listed[:, :, None], jnp.einsum("nkhf,hf->nkh", mixed, layer["attention"]), -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=1, keepdims=True))
    shares = jnp.where(listed[:, :, None], jnp.exp(scores - jnp.where(top > -jnp.inf, top, 0)), 0)
    attention = shares / nonzero(jnp.sum(shares, axis=1, keepdims=True))
    outputs = jnp.einsum("nkh,nkhf->nhf", attention, seen)
    return outputs.reshape(size, -1) + layer["bias"][None], attention


def received(graph: InstanceGraph, attention: jax.Array) -> jax.Array:
    """Return the attention that each row receives: the sum over rows of their attention to it, averaged over heads.

    The attention that a row gives sums to 1 and tells nothing.

    Args:
      graph: K neighbors of each row.
      attention: `[N, K, H]`.

    Returns:
      `[N]`, in the dtype of the attention; the sum is the number of rows that have a neighbor.

    Examples:
      >>> graph = InstanceGraph(jnp.array([[1], [0], [1]]), jnp.ones((3, 1)))
      >>> received(graph, jnp.ones((3, 1, 1))).tolist()
      [1.0, 2.0, 0.0]
    """
    size = attention.shape[0]
    return jnp.zeros(size, attention.dtype).at[graph.neighbors].add(jnp.mean(attention, axis=2), mode="drop")
