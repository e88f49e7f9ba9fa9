"""Which classes share a mini-batch: the nearest by proxies of the last epoch, so that small batches are hard.

The batches are chosen before the data are loaded: `partition_by_proxies` once an epoch, `update_proxies` every step.

References:
  Ali-bey et al., Global proxy-based hard mining for visual place recognition, 2022 (arXiv 2302.14217).

Method: GPM
Paper: 2302.14217
Experiment: place_mining
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_number, check_shape
from minibatch_jax._loops import bind, scan
from minibatch_jax._vector import class_numbers
from minibatch_jax.geometry import finite_rows
from minibatch_jax.mining.distances import normalize_embeddings
from minibatch_jax.weights import weight_dtype


class Proxies(NamedTuple):
    """One vector for each class.

    Fields:
      embeddings: `[N, D]` float32, zero until the class is seen.
      seen: `[N]` bool, whether the class was in a batch.
    """

    embeddings: jax.Array
    seen: jax.Array


def init_proxies(num_classes: int, dimension: int) -> Proxies:
    """Return the proxies of classes not yet seen; keep the proxies in the training state.

    Args:
      num_classes: N, number of classes, static.
      dimension: D, number of outputs of the proxy head, static; keep it small, so that `[N, D]` fits in memory.

    Returns:
      Proxies of N classes, all zero and not seen.

    Raises:
      TypeError: if a size is not a static int.
      ValueError: if a size is below 1.

    Examples:
      >>> bool(init_proxies(3, 2).seen.any())
      False
    """
    check_count("num_classes", num_classes)
    check_count("dimension", dimension)
    return Proxies(jnp.zeros((num_classes, dimension)), jnp.zeros(num_classes, bool))


def update_proxies(
    proxies: Proxies, embeddings: jax.Array, labels: jax.Array, *, decay: float | jax.Array = 0.0
) -> Proxies:
    """Write the mean embedding of each class of the batch, scaled to length 1; gradients stop here.

    Args:
      proxies: of N classes.
      embeddings: `[B, D]`, floating point, of the proxy head; a row that is not finite is ignored.
      labels: `[B]` int in [0, N); labels out of this range are ignored.
      decay: in [0, 1], share of the old proxy that is kept if the class was seen before.

    Returns:
      The updated proxies.

    Raises:
      TypeError: if a dtype is wrong.
      ValueError: if shapes do not match or the decay is out of range.

    Examples:
      >>> batch = jnp.array([[2.0, 0.0], [4.0, 0.0]])
      >>> update_proxies(init_proxies(3, 2), batch, jnp.array([1, 1])).embeddings.tolist()
      [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    """
    num_classes, dimension = proxies.embeddings.shape
    check_shape("embeddings", embeddings, (None, dimension))
    check_floating("embeddings", embeddings)
    check_shape("labels", labels, embeddings.shape[:1])
    check_integer("labels", labels)
    check_number("decay", decay, 0, 1)
    dtype = proxies.embeddings.dtype
    fixed, finite = finite_rows(jax.lax.stop_gradient(embeddings))
    fixed = fixed.astype(weight_dtype(dtype))
    rows = jnp.where(finite, class_numbers(labels, num_classes), num_classes)
    sums = jnp.zeros(proxies.embeddings.shape, fixed.dtype).at[rows].add(fixed, mode="drop")
    present = jnp.zeros_like(proxies.seen).at[rows].set(True, mode="drop")
    kept = jnp.where(proxies.seen, decay, 0)[:, None] * proxies.embeddings.astype(fixed.dtype)
    new = normalize_embeddings(kept + jnp.where(proxies.seen, 1 - decay, 1)[:, None] * normalize_embeddings(sums))
    return Proxies(jnp.where(present[:, None], new.astype(dtype), proxies.embeddings), proxies.seen | present)


def partition_by_proxies(
    key: jax.Array, proxies: Proxies, classes_per_batch: int, *, temperature: float | jax.Array = 0.0
) -> jax.Array:
    """Partition the classes into batches: a random class and its nearest neighbors among those that remain.

    Classes not yet seen have no neighbors and fill up batches in random order. The last batches take the classes that
    are left, and are less hard.

    Args:
      key: typed PRNG key.
      proxies: of N classes.
      classes_per_batch: P, number of classes of a batch, at most N, static.
      temperature: >= 0; above 0 neighbors are drawn with probabilities exp(cosine / temperature), without replacement,
        and an infinite temperature gives random batches.

    Returns:
      `[N // P, P]` int32, class numbers without repetition; the first of each row is the random class. N mod P classes
      are left out.

    Raises:
      TypeError: if `classes_per_batch` is not a static int.
      ValueError: if it is not in [1, N] or the temperature is negative.

    Examples:
      >>> proxies = Proxies(jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]]), jnp.ones(4, bool))
      >>> sorted(sorted(row) for row in partition_by_proxies(jax.random.key(0), proxies, 2).tolist())
      [[0, 2], [1, 3]]
    """
    num_classes = proxies.embeddings.shape[0]
    check_count("classes_per_batch", classes_per_batch, num_classes, "the number of classes")
    check_number("temperature", temperature, 0)
    seed_key, unseen_key, draw_key = jax.random.split(key, 3)
    priority = jax.random.uniform(seed_key, (num_classes,))
    filler = jax.random.uniform(unseen_key, (num_classes,)) - 3  # below every cosine
    index = normalize_embeddings(proxies.embeddings.astype(weight_dtype(proxies.embeddings.dtype)))
    num_batches = num_classes // classes_per_batch
    keys = jax.random.split(draw_key, num_batches)
    step = bind(_batch_around, index, proxies.seen, priority, filler, temperature, number=classes_per_batch)
    return scan(step, jnp.ones(num_classes, bool), keys)[1]


def _batch_around(index, seen, priority, filler, temperature, remaining, key, *, number):
    """Take the class of the highest priority that remains and those nearest to it."""
    _, first = jax.lax.top_k(jnp.where(remaining, priority, -1), 1)
    cosines = index @ index[first[0]]
    noise = temperature * jax.random.gumbel(key, seen.shape)
    noisy = jnp.where(jnp.isinf(temperature), filler, cosines + jnp.where(temperature > 0, noise, 0))
    scores = jnp.where(seen & seen[first[0]], noisy, filler)
    scores = jnp.where(remaining, scores, -jnp.inf).at[first[0]].set(jnp.inf)
    _, chosen = jax.lax.top_k(scores, number)
    return remaining.at[chosen].set(False), chosen
