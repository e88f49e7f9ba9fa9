"""A queue of past embeddings as further references: cross-batch memory.

References:
  Wang et al., Cross-batch memory for embedding learning, 2020 (arXiv 1912.06798).
  He et al., Momentum contrast for unsupervised visual representation learning, 2020 (arXiv 1911.05722).

Method: cross-batch memory
Paper: 1912.06798
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_shape
from minibatch_jax.mining.masks import negative_mask, positive_mask


class Memory(NamedTuple):
    """The last K embeddings and their labels.

    Fields:
      embeddings: `[K, D]`, zero where nothing is stored yet.
      labels: `[K]` int32, -1 where nothing is stored yet.
      num_stored: `[]` int32, how many embeddings were stored so far, below 2 K: a full memory stays at K or above.
    """

    embeddings: jax.Array
    labels: jax.Array
    num_stored: jax.Array


class MemoryPairs(NamedTuple):
    """References of a batch and the masks of its pairs with them.

    Fields:
      references: `[B + K, D]`, the batch first, then the memory.
      positives: `[B, B + K]` bool, the pairs of one class.
      negatives: `[B, B + K]` bool, the pairs of different classes.
    """

    references: jax.Array
    positives: jax.Array
    negatives: jax.Array


def init_memory(size: int, dimension: int, dtype: jax.typing.DTypeLike = jnp.float32) -> Memory:
    """Return an empty memory; keep it in the training state, replicated over devices.

    Args:
      size: K, number of embeddings, static.
      dimension: D, number of entries of an embedding, static.
      dtype: of the embeddings.

    Returns:
      A memory that holds nothing.

    Raises:
      TypeError: if a size is not a static int.
      ValueError: if a size is below 1.

    Examples:
      >>> init_memory(8, 2).embeddings.shape
      (8, 2)
    """
    check_count("size", size)
    check_count("dimension", dimension)
    return Memory(jnp.zeros((size, dimension), dtype), jnp.full(size, -1, jnp.int32), jnp.zeros((), jnp.int32))


def remember(memory: Memory, embeddings: jax.Array, labels: jax.Array) -> Memory:
    """Store a batch over the oldest entries; gradients stop here.

    With several devices store the gathered batch, in the same order everywhere: the memories stay equal.

    Args:
      memory: of K embeddings `[K, D]`.
      embeddings: `[B, D]`, floating point, B <= K.
      labels: `[B]` int.

    Returns:
      The memory with the last K embeddings.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if shapes do not match or the batch is larger than the memory.

    Examples:
      >>> memory = remember(init_memory(3, 1), jnp.array([[1.0], [2.0]]), jnp.array([0, 1]))
      >>> remember(memory, jnp.array([[3.0], [4.0]]), jnp.array([2, 3])).labels.tolist()
      [3, 1, 2]
    """
    size, dimension = memory.embeddings.shape
    check_shape("embeddings", embeddings, (None, dimension))
    check_floating("embeddings", embeddings)
    check_shape("labels", labels, embeddings.shape[:1])
    check_integer("labels", labels)
    check_count("the number of embeddings", embeddings.shape[0], size, "the size of the memory")
    slots = (memory.num_stored % size + jnp.arange(embeddings.shape[0], dtype=jnp.int32)) % size
    count = memory.num_stored + embeddings.shape[0]
    count = jnp.where(count >= 2 * size, count - size, count)  # no overflow, same slot, still full
    stored = jax.lax.stop_gradient(embeddings).astype(memory.embeddings.dtype)
    return Memory(memory.embeddings.at[slots].set(stored), memory.labels.at[slots].set(labels.astype(jnp.int32)), count)


def memory_pairs(memory: Memory, embeddings: jax.Array, labels: jax.Array) -> MemoryPairs:
    """Return the pairs of a batch with itself and with the memory; call it before the batch is remembered.

    Args:
      memory: of K embeddings `[K, D]`; slots where nothing is stored yet are in no pair.
      embeddings: `[B, D]`, floating point; the gradient flows through them as anchors and as references.
      labels: `[B]` int.

    Returns:
      References and masks: `loss(cosine_similarity(embeddings, references), positives, negatives)`.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if shapes do not match.

    Examples:
      >>> memory = remember(init_memory(3, 1), jnp.array([[1.0], [2.0]]), jnp.array([0, 1]))
      >>> memory_pairs(memory, jnp.array([[3.0]]), jnp.array([1])).positives.astype(int).tolist()
      [[0, 0, 1, 0]]
    """
    size, dimension = memory.embeddings.shape
    check_shape("embeddings", embeddings, (None, dimension))
    check_shape("labels", labels, embeddings.shape[:1])
    check_integer("labels", labels)
    stored = (jnp.arange(size) < memory.num_stored)[None, :]
    labels = labels.astype(jnp.int32)
    past = jax.lax.stop_gradient(memory.embeddings).astype(embeddings.dtype)
    return MemoryPairs(
        jnp.concatenate([embeddings, past]),
        jnp.concatenate([positive_mask(labels), positive_mask(labels, memory.labels) & stored], axis=1),
        jnp.concatenate([negative_mask(labels), negative_mask(labels, memory.labels) & stored], axis=1),
    )
