"""A fixed set of triplets, all of them once in an epoch: where triplets are all that is known, and no labels.

Method: fixed triplets
Experiment: pairs_that_count
"""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import as_key, check_count, check_integer, check_shape
from minibatch_jax.mining.class_batches import examples_of, index_classes
from minibatch_jax.sampling._permutations import permuted
from minibatch_jax.sampling._sampler import Rows, Sampler, rows_of


class FixedTripletsState(NamedTuple):
    """State of `fixed_triplets`.

    Attributes:
      rng_key: `[]` key of this epoch and of all that follow.
      triplets: `[T, 3]` int32, rows of anchor, positive and negative.
      position: `[]` int32, triplets of this epoch that were drawn.
      epoch: `[]` int32, epochs that are complete.
    """

    rng_key: jax.Array
    triplets: jax.Array
    position: jax.Array
    epoch: jax.Array


def fixed_triplets(num_triplets: int, triplets_per_batch: int) -> Sampler:
    """Draw triplets of a fixed set; every triplet comes once in an epoch, in random order.

    The set is given, or drawn from labels in `init`: a random class that has two examples, two different ones of them
    as anchor and positive, and an example of a random other class as negative. Triplets are drawn independently, so
    that one may come twice. A batch is anchor, positive and negative of the first triplet, then those of the second,
    and so on. If b does not divide T, the last batch of an epoch is filled up with padding.

    Args:
      num_triplets: T, static.
      triplets_per_batch: b, static, at most T.

    Returns:
      A sampler of 3 b rows; `init(key, labels=labels)` with `[N]` int labels, of which negative ones are no class, or
      `init(key, triplets=triplets)` with `[T, 3]` int rows.

    Raises:
      TypeError: if a size is not a static int; in `init`, if labels or triplets are not integers.
      ValueError: if a size is below 1 or b is above T; in `init`, if not one of labels and triplets is given, a shape
        is wrong, a row is negative, or the labels have no two classes, one of them with two examples.

    Examples:
      >>> sampler = fixed_triplets(3, 2)
      >>> state, seen = sampler.init(0, triplets=jnp.array([[0, 1, 2], [3, 4, 0], [5, 6, 7]])), []
      >>> for _ in range(2):
      ...   rows, state = sampler.sample(state)
      ...   seen += rows.indices.reshape(2, 3).tolist()
      >>> sorted(seen)
      [[-1, -1, -1], [0, 1, 2], [3, 4, 0], [5, 6, 7]]
    """
    check_count("num_triplets", num_triplets)
    check_count("triplets_per_batch", triplets_per_batch, num_triplets, "the number of triplets")

    def init(
        key: jax.Array | int, *, labels: jax.Array | None = None, triplets: jax.Array | None = None
    ) -> FixedTripletsState:
        own_key, draw_key = jax.random.split(as_key(key))
        if labels is not None and triplets is None:
            fixed = _drawn(draw_key, labels, num_triplets)
        elif triplets is not None and labels is None:
            fixed = _given(triplets, num_triplets)
        else:
            given = "neither labels nor" if labels is None else "both labels and"
            raise ValueError(f"{given} triplets are given, wanted one of them.")
        return FixedTripletsState(own_key, fixed, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def sample(state: FixedTripletsState) -> tuple[Rows, FixedTripletsState]:
        next_key, order_key = jax.random.split(state.rng_key)
        places = state.position + jnp.arange(triplets_per_batch, dtype=jnp.int32)
        drawn = state.triplets[permuted(order_key, jnp.minimum(places, num_triplets - 1), num_triplets)]
        position = state.position + triplets_per_batch
        done = position >= num_triplets
        rng_key, position = jnp.where(done, next_key, state.rng_key), jnp.where(done, 0, position)
        rows = rows_of(jnp.where((places < num_triplets)[:, None], drawn, -1).reshape(-1))
        return rows, FixedTripletsState(rng_key, state.triplets, position, state.epoch + done.astype(jnp.int32))

    return Sampler(init, sample)


def _given(triplets: jax.Array, count: int) -> jax.Array:
    check_shape("triplets", triplets, (count, 3))
    check_integer("triplets", triplets)
    if not isinstance(triplets, jax.core.Tracer) and np.any(np.asarray(triplets) < 0):
        raise ValueError(f"triplets have the row {np.min(np.asarray(triplets))}, wanted at least 0.")
    return jnp.array(triplets, jnp.int32)  # a copy: a step may donate the state


def _drawn(key: jax.Array, labels: jax.Array, count: int) -> jax.Array:
    """Return random triplets `[T, 3]`; -1 where traced labels allow none."""
    check_shape("labels", labels, (None,))
    check_integer("labels", labels)
    labels = jnp.asarray(labels)
    order = jnp.argsort(labels, stable=True)
    begins = (labels[order] >= 0) & jnp.append(True, labels[order][1:] != labels[order][:-1])
    numbers = jnp.zeros(len(labels), jnp.int32).at[order].set(jnp.cumsum(begins, dtype=jnp.int32) - 1)
    index = index_classes(numbers, len(labels))  # the k classes are 0, ..., k - 1
    num_classes, num_pairs = (jnp.sum(index.sizes >= size, dtype=jnp.int32) for size in (1, 2))
    if not isinstance(num_pairs, jax.core.Tracer) and (num_classes < 2 or num_pairs < 1):
        raise ValueError(
            f"labels have {num_classes} classes, {num_pairs} with two examples, wanted at least 2 classes, 1 with two."
        )
    class_key, other_key, pair_key, negative_key = jax.random.split(key, 4)
    with_pairs = jnp.argsort(index.sizes < 2, stable=True).astype(jnp.int32)
    own = with_pairs[jax.random.randint(class_key, (count,), 0, jnp.maximum(num_pairs, 1), jnp.int32)]
    other = jax.random.randint(other_key, (count,), 0, jnp.maximum(num_classes - 1, 1), jnp.int32)
    other += (other >= own).astype(jnp.int32)
    pairs, negatives = examples_of(pair_key, index, own, 2), examples_of(negative_key, index, other, 1)
    possible = (num_classes >= 2) & (num_pairs >= 1)
    return jnp.where(possible, jnp.concatenate([pairs, negatives], axis=1), -1)
