"""Which classes share a mini-batch: the nearest by proxies of the last epoch, so that small batches are hard.

`sampling.by_proxies` does both steps: `update_proxies` after every step, and `partition_by_proxies` once an epoch.

References:
  Ali-bey et al., Global proxy-based hard mining for visual place recognition, 2022 (arXiv 2302.14217).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import (
    as_key,
    check_count,
    check_floating,
    check_integer,
    check_number,
    check_shape,
    mask_or_all,
)
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
    return Proxies(jnp.zeros((num_classes, dimension), jnp.float32), jnp.zeros(num_classes, bool))


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
    written = jnp.where(finite, class_numbers(labels, num_classes), num_classes)
    classes = jnp.minimum(written, num_classes - 1)
    row = jnp.arange(classes.shape[0], dtype=jnp.int32)
    last = jnp.zeros(num_classes, jnp.int32).at[written].max(row, mode="drop")[classes]
    home = jnp.where(written < num_classes, last, row)  # the row at which the rows of a class add up
    sums = jnp.zeros(fixed.shape, fixed.dtype).at[home].add(fixed)
    seen = proxies.seen[classes]
    kept = jnp.where(seen, decay, 0)[:, None] * proxies.embeddings[classes].astype(fixed.dtype)
    new = normalize_embeddings(kept + jnp.where(seen, 1 - decay, 1)[:, None] * normalize_embeddings(sums))
    written = jnp.where(home == row, written, num_classes)
    embeddings = proxies.embeddings.at[written].set(new.astype(dtype), mode="drop")
    return Proxies(embeddings, proxies.seen.at[written].set(True, mode="drop"))


def partition_by_proxies(
    key: jax.Array | int,
    proxies: Proxies,
    classes_per_batch: int,
    *,
    where: jax.Array | None = None,
    temperature: float | jax.Array = 0.0,
) -> jax.Array:
    """Partition the classes into batches: a random class and its nearest neighbors among those that remain.

    Classes not yet seen have no neighbors and fill up batches in random order. The last batches take the classes that
    are left, and are less hard.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      proxies: of N classes.
      classes_per_batch: P, number of classes of a batch, at most N, static.
      where: `[N]` bool, which classes take part; all by default. With M of them there are M // P batches, or one that
        is filled up with -1 if M is below P; the rows after them are -1.
      temperature: >= 0; above 0 neighbors are drawn with probabilities exp(cosine / temperature), without replacement,
        and an infinite temperature gives random batches.

    Returns:
      `[N // P, P]` int32, class numbers without repetition; the first of each row is the random class. N mod P (or
      M mod P) classes are left out.

    Raises:
      TypeError: if `classes_per_batch` is not a static int or `where` not bool.
      ValueError: if it is not in [1, N], `where` is not `[N]` or the temperature is negative.

    Examples:
      >>> proxies = Proxies(jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]]), jnp.ones(4, bool))
      >>> sorted(sorted(row) for row in partition_by_proxies(jax.random.key(0), proxies, 2).tolist())
      [[0, 2], [1, 3]]
    """
    num_classes = proxies.embeddings.shape[0]
    check_count("classes_per_batch", classes_per_batch, num_classes, "the number of classes")
    check_number("temperature", temperature, 0)
    where = mask_or_all("where", where, (num_classes,))
    seed_key, unseen_key, draw_key = jax.random.split(as_key(key), 3)
    index = normalize_embeddings(proxies.embeddings.astype(weight_dtype(proxies.embeddings.dtype)))
    priority = jax.random.uniform(seed_key, (num_classes,), index.dtype)
    filler = jax.random.uniform(unseen_key, (num_classes,), index.dtype) - 3  # below every cosine
    noisy = isinstance(temperature, jax.Array) or temperature > 0
    num_batches = jnp.maximum(jnp.sum(where, dtype=jnp.int32) // classes_per_batch, 1)
    batches = jnp.arange(num_classes // classes_per_batch, dtype=jnp.int32)
    arrays = index, proxies.seen, priority, filler, temperature, num_batches
    step = bind(_batch_around, *arrays, number=classes_per_batch, noisy=noisy)
    return scan(step, where, (batches, jax.random.split(draw_key, len(batches))))[1]


def _batch_around(index, seen, priority, filler, temperature, num_batches, remaining, of_step, *, number, noisy):
    """Take the class of the highest priority that remains and those nearest to it; -1 where no batch is left."""
    batch, key = of_step
    _, first = jax.lax.top_k(jnp.where(remaining, priority, -1), 1)
    cosines = index @ index[first[0]]
    if noisy:
        noise = temperature * jax.random.gumbel(key, seen.shape, index.dtype)
        cosines = jnp.where(jnp.isinf(temperature), filler, cosines + jnp.where(temperature > 0, noise, 0))
    scores = jnp.where(seen & seen[first[0]], cosines, filler)
    scores = jnp.where(remaining, scores, -jnp.inf).at[first[0]].set(jnp.inf)
    _, chosen = jax.lax.top_k(scores, number)
    exists = remaining[chosen] & (batch < num_batches)
    return remaining.at[chosen].set(False), jnp.where(exists, chosen, -1)
