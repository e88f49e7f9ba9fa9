"""A queue of past embeddings as further references: cross-batch memory.

References:
  Wang et al., Cross-batch memory for embedding learning, 2020 (arXiv 1912.06798).
  He et al., Momentum contrast for unsupervised visual representation learning, 2020 (arXiv 1911.05722).

Method: cross-batch memory
Paper: 1912.06798
Experiment: pairs_that_count
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import (
    check_bool,
    check_count,
    check_floating,
    check_integer,
    check_shape,
    check_whole,
    mask_or_all,
)
from minibatch_jax.devices import bound_axis, replicate
from minibatch_jax.mining._references import labels_or_masks


class Memory(NamedTuple):
    """The last K embeddings and their labels.

    Attributes:
      embeddings: `[K, D]`, zero where nothing is stored yet.
      labels: `[K]` int32, or `[K, ...]` for labels of another shape; -1 where nothing is stored yet.
      num_stored: `[]` int32, how many embeddings were stored so far, those that later ones replaced included; at about
        2^30 it stops growing.
    """

    embeddings: jax.Array
    labels: jax.Array
    num_stored: jax.Array


class MemoryPairs(NamedTuple):
    """References of a batch and the masks of its pairs with them.

    Fields:
      references: `[B + K, D]`, the batch (of all devices) first, then the memory; 0 in rows that are not finite.
      positives: `[B, B + K]` bool, the pairs that belong together.
      negatives: `[B, B + K]` bool, the pairs that do not.
    """

    references: jax.Array
    positives: jax.Array
    negatives: jax.Array


def init_memory(
    size: int, dimension: int, dtype: jax.typing.DTypeLike = jnp.float32, label_shape: tuple[int, ...] = ()
) -> Memory:
    """Return an empty memory; keep it in the training state, replicated over devices.

    Args:
      size: K, number of embeddings, static.
      dimension: D, number of entries of an embedding, static.
      dtype: of the embeddings.
      label_shape: shape of the label of one embedding, static: () for a class, (L,) for L labels that are 0 or 1.

    Returns:
      A memory that holds nothing.

    Raises:
      TypeError: if a size is not a static int, or the label shape not a tuple of them.
      ValueError: if a size is below 1.

    Examples:
      >>> init_memory(8, 2).embeddings.shape
      (8, 2)
      >>> init_memory(8, 2, label_shape=(5,)).labels.shape
      (8, 5)
    """
    check_count("size", size)
    check_count("dimension", dimension)
    if not isinstance(label_shape, tuple):
        raise TypeError(f"label_shape is {label_shape!r}, wanted a tuple of static ints.")
    for length in label_shape:
        check_count("label_shape", length)
    labels = jnp.full((size, *label_shape), -1, jnp.int32)
    return Memory(jnp.zeros((size, dimension), dtype), labels, jnp.zeros((), jnp.int32))


def remember(memory: Memory, embeddings: jax.Array, labels: jax.Array, *, where: jax.Array | None = None) -> Memory:
    """Store a batch, or some of its rows, over the oldest entries; gradients stop here.

    Embeddings that are not finite, such as padding of NaN, are not stored. Rows that are not stored take no slot: those
    that are stored follow one another. Under `shard_map` store the gathered batch, in the same order everywhere: the
    memories stay equal. Under `jit` the batch may be sharded.

    Args:
      memory: of K embeddings `[K, D]`.
      embeddings: `[B, D]`, floating point; B <= K unless `where` is given.
      labels: `[B]` int, or `[B, ...]` int or bool for labels of another shape.
      where: `[B]` bool, the rows to store, such as those of a momentum encoder; all by default. Of more than K rows the
        last K stay.

    Returns:
      The memory with the last K embeddings.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if shapes do not match, or the batch is larger than the memory and `where` is not given.

    Examples:
      >>> memory = remember(init_memory(3, 1), jnp.array([[1.0], [2.0]]), jnp.array([0, 1]))
      >>> remember(memory, jnp.array([[3.0], [4.0]]), jnp.array([2, 3])).labels.tolist()
      [3, 1, 2]
      >>> remember(memory, jnp.array([[3.0], [4.0]]), jnp.array([2, 3]), where=jnp.array([False, True])).labels.tolist()
      [0, 1, 3]
    """
    size, dimension = memory.embeddings.shape
    check_shape("embeddings", embeddings, (None, dimension))
    check_floating("embeddings", embeddings)
    number = embeddings.shape[0]
    check_shape("labels", labels, (number, *memory.labels.shape[1:]))
    if labels.ndim == 1 or labels.dtype != jnp.bool_:
        check_integer("labels", labels)
    if where is None:
        check_count("the number of embeddings", number, size, "the size of the memory")
    wanted = mask_or_all("where", where, (number,))
    embeddings, labels, wanted = replicate((jax.lax.stop_gradient(embeddings), labels, wanted))
    rows = embeddings.astype(memory.embeddings.dtype)
    wanted &= jnp.all(jnp.isfinite(rows), axis=1)
    ranks = jnp.cumsum(wanted, dtype=jnp.int32)  # 1 for the first row that is stored
    slots = (memory.num_stored % size + ranks - 1) % size
    slots = jnp.where(wanted & (ranks > ranks[-1] - size), slots, size)  # the others fall out of the range
    count, limit = memory.num_stored + ranks[-1], _limit(size)
    return Memory(
        memory.embeddings.at[slots].set(rows, mode="drop"),
        memory.labels.at[slots].set(labels.astype(jnp.int32), mode="drop"),
        jnp.where(count >= limit + size, limit + count % size, count),  # no overflow, same slot
    )


def _limit(size: int) -> int:
    """Return the multiple of the size at which a memory stops to count."""
    return 2**30 // size * size


def memory_pairs(
    memory: Memory,
    embeddings: jax.Array,
    labels: jax.Array | None = None,
    *,
    positives: jax.Array | None = None,
    negatives: jax.Array | None = None,
    axis_name: str | None = None,
    warm_up: int | jax.Array = 0,
) -> MemoryPairs:
    """Return the pairs of a batch with itself and with the memory; call it before the batch is remembered.

    Slots where nothing is stored yet are in no pair, no embedding is in a pair with itself, and none that is not finite
    is in any: a batch may hold rows of NaN, such as padding.

    Args:
      memory: of K embeddings `[K, D]`.
      embeddings: `[B, D]`, floating point; the gradient flows through them as anchors and as references.
      labels: `[B]` int, class of each embedding, for a memory of classes.
      positives: `[B, B + K]` bool, True where an embedding and one of the batch or of the memory belong together, in
        place of labels.
      negatives: `[B, B + K]` bool, True where they do not belong together; given if and only if the positives are.
      axis_name: axis of a `shard_map` or `pmap` over which embeddings, labels and masks are sharded by rows. The
        embeddings of each device are paired with the batch of all devices and the memory, `[b, B + K]`.
      warm_up: number of embeddings that must have been stored, those replaced since included, before the memory is in
        any pair; may be traced, and above K. Until then there are the pairs of the batch alone.

    Returns:
      References and masks: `loss(cosine_similarity(embeddings, references), positives, negatives)`.

    Raises:
      TypeError: if a dtype is wrong, or the warm-up is no int.
      ValueError: if shapes do not match, neither or both of labels and masks are given, only one mask is given, labels
        are given and those of the memory are not classes, or the warm-up is negative or longer than a memory counts.

    Examples:
      >>> memory = remember(init_memory(3, 1), jnp.array([[1.0], [2.0]]), jnp.array([0, 1]))
      >>> memory_pairs(memory, jnp.array([[3.0]]), jnp.array([1])).positives.astype(int).tolist()
      [[0, 0, 1, 0]]
      >>> memory_pairs(memory, jnp.array([[3.0]]), jnp.array([1]), warm_up=5).positives.astype(int).tolist()
      [[0, 0, 0, 0]]

      Several labels an example; pairs that share one are positive:

      >>> memory = init_memory(3, 1, label_shape=(2,))
      >>> memory = remember(memory, jnp.array([[1.0], [2.0]]), jnp.array([[1, 0], [1, 1]]))
      >>> tags = jnp.array([[0, 1]])
      >>> shared = jnp.dot(tags, jnp.concatenate([tags, memory.labels]).T) > 0
      >>> pairs = memory_pairs(memory, jnp.array([[3.0]]), positives=shared, negatives=~shared)
      >>> pairs.positives.astype(int).tolist(), pairs.negatives.astype(int).tolist()
      ([[0, 0, 1, 0]], [[0, 1, 0, 0]])

      A step of training through the boundary, with the memory as its state:

      >>> from minibatch_jax import mining, value_and_grad
      >>> def similarities(scale, batch, memory):
      ...   x, labels = batch
      ...   z = mining.normalize_embeddings(x * scale[None])
      ...   pairs = memory_pairs(memory, z, labels)
      ...   signals = {"positives": pairs.positives, "negatives": pairs.negatives}
      ...   return mining.cosine_similarity(z, pairs.references), signals, remember(memory, z, labels)
      >>> options = {"items": "similarities", "loss": mining.supcon_loss, "has_aux": True, "has_state": True}
      >>> miner = mining.mine_multi_similarity()
      >>> fn = value_and_grad(similarities, miner, **options)
      >>> batch = jnp.array([[1.0, 0.2], [0.3, 1.0], [1.0, 1.0]]), jnp.array([0, 0, 1])
      >>> state = miner.init(jnp.ones((3, 3 + 4)))
      >>> (value, aux), grads, state = fn(jnp.array([1.0, 2.0]), batch, state, model_state=init_memory(4, 2))
      >>> int(aux.model_state.num_stored), aux.weights.shape
      (3, (3, 7))
    """
    size, dimension = memory.embeddings.shape
    check_shape("embeddings", embeddings, (None, dimension))
    check_floating("embeddings", embeddings)
    check_whole("warm_up", warm_up)
    if not isinstance(warm_up, jax.Array) and warm_up > _limit(size):
        raise ValueError(f"warm_up is {warm_up}, wanted at most {_limit(size)} (the memory counts no further).")
    number, first_row, batch = embeddings.shape[0], 0, replicate(embeddings)
    if bound_axis(axis_name):
        first_row = jax.lax.axis_index(axis_name) * number
        batch = jax.lax.all_gather(batch, axis_name, tiled=True)
    told = labels_or_masks(labels, positives, negatives)
    masks = told if isinstance(told, tuple) else _masks_of_classes(memory, told, number, axis_name)
    columns = jnp.arange(batch.shape[0] + size, dtype=jnp.int32)[None, :]
    for name, mask in zip(("positives", "negatives"), masks):
        check_shape(name, mask, (number, columns.shape[1]))
        check_bool(name, mask)
    itself = columns == first_row + jnp.arange(number, dtype=jnp.int32)[:, None]
    past = jax.lax.stop_gradient(memory.embeddings).astype(embeddings.dtype)
    references = jnp.concatenate([batch, past])
    finite = jnp.all(jnp.isfinite(references), axis=1)
    num_counted = jnp.where(memory.num_stored >= warm_up, memory.num_stored, 0)
    usable = (columns < batch.shape[0] + num_counted) & ~itself & finite[None, :]
    usable &= jnp.all(jnp.isfinite(embeddings), axis=1)[:, None]
    return MemoryPairs(jnp.where(finite[:, None], references, 0), masks[0] & usable, masks[1] & usable)


def _masks_of_classes(
    memory: Memory, labels: jax.Array, number: int, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    check_shape("labels", labels, (number,))
    check_integer("labels", labels)
    if memory.labels.ndim != 1:
        raise ValueError(
            f"memory.labels has shape {list(memory.labels.shape)}, wanted [{len(memory.labels)}] where labels are "
            "given: pass positives and negatives."
        )
    labels = labels.astype(jnp.int32)
    batch = jax.lax.all_gather(labels, axis_name, tiled=True) if bound_axis(axis_name) else replicate(labels)
    same = labels[:, None] == jnp.concatenate([batch, memory.labels])[None, :]
    return same, ~same
