"""P classes and K examples of each in a batch, all classes in an epoch: for losses of pairs and triplets.

References:
  Hermans et al., In defense of the triplet loss for person re-identification, 2017 (arXiv 1703.07737).

Method: P x K batches
Paper: 1703.07737
Experiment: speed samplers
"""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import as_key, check_count
from minibatch_jax.mining.class_batches import ClassIndex, examples_of, index_classes
from minibatch_jax.sampling._permutations import permuted
from minibatch_jax.sampling._sampler import Rows, Sampler, rows_of


class ByClassState(NamedTuple):
    """State of `by_class`.

    Attributes:
      rng_key: `[]` key of the next batch.
      examples: the data set by class.
      order_key: `[]` key of the order of the classes in this epoch.
      classes: `[C]` int32, the classes; those without examples come last.
      num_classes: `[]` int32, classes that have examples.
      position: `[]` int32, classes of this epoch that were drawn.
      epoch: `[]` int32, epochs that are complete.
    """

    rng_key: jax.Array
    examples: ClassIndex
    order_key: jax.Array
    classes: jax.Array
    num_classes: jax.Array
    position: jax.Array
    epoch: jax.Array


def by_class(num_classes: int, classes_per_batch: int, per_class: int) -> Sampler:
    """Draw P classes and K examples of each; every class comes once in an epoch, in random order.

    The K examples of a class are drawn anew at each visit: different ones if it has K, else with replacement. The batch
    lists one class after the other. If P does not divide the number of classes, the last batch of an epoch is filled up
    with padding. Classes without examples, which only traced labels may have, are left out.

    Args:
      num_classes: C, labels are in [0, C), static.
      classes_per_batch: P, static, at most C.
      per_class: K, static.

    Returns:
      A sampler of P K rows; `init(key, labels=labels)` with `[N]` int labels.

    Raises:
      TypeError: if a size is not a static int; in `init`, if labels are not integers.
      ValueError: if a size is below 1 or P is above C; in `init`, if the labels are empty or no vector, or a class has
        no example.

    Examples:
      >>> sampler = by_class(3, 2, 2)
      >>> labels = jnp.array([0, 0, 1, 1, 2, 2])
      >>> state, seen = sampler.init(0, labels=labels), []
      >>> for _ in range(2):
      ...   rows, state = sampler.sample(state)
      ...   seen += rows.indices.tolist()
      >>> sorted(seen), rows.weights.tolist()
      ([-1, -1, 0, 1, 2, 3, 4, 5], [0.5, 0.5, 0.0, 0.0])
    """
    check_count("num_classes", num_classes)
    check_count("classes_per_batch", classes_per_batch, num_classes, "the number of classes")
    check_count("per_class", per_class)

    def init(key: jax.Array | int, *, labels: jax.Array) -> ByClassState:
        index = index_every_class(labels, num_classes)
        next_key, order_key = jax.random.split(as_key(key))
        classes = jnp.argsort(index.sizes == 0, stable=True).astype(jnp.int32)
        present = jnp.sum(index.sizes > 0, dtype=jnp.int32)
        position, epoch = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return ByClassState(next_key, index, order_key, classes, present, position, epoch)

    def sample(state: ByClassState) -> tuple[Rows, ByClassState]:
        next_key, draw_key, next_order_key = jax.random.split(state.rng_key, 3)
        places = state.position + jnp.arange(classes_per_batch, dtype=jnp.int32)
        last = jnp.maximum(state.num_classes - 1, 0)
        ranks = permuted(state.order_key, jnp.minimum(places, last), jnp.maximum(state.num_classes, 1))
        drawn = examples_of(draw_key, state.examples, state.classes[ranks], per_class)
        rows = rows_of(jnp.where((places < state.num_classes)[:, None], drawn, -1).reshape(-1))
        position = state.position + classes_per_batch
        done = position >= state.num_classes
        return rows, state._replace(
            rng_key=next_key,
            order_key=jnp.where(done, next_order_key, state.order_key),
            position=jnp.where(done, 0, position),
            epoch=state.epoch + done.astype(jnp.int32),
        )

    return Sampler(init, sample)


def index_every_class(labels: jax.Array, num_classes: int) -> ClassIndex:
    """Sort a data set by class. Raise ValueError if the labels are known and a class has no example."""
    index = index_classes(labels, num_classes)
    if not isinstance(index.sizes, jax.core.Tracer):
        check_no_class_empty(np.asarray(index.sizes) == 0)
    return index


def check_no_class_empty(empty: np.ndarray) -> None:
    """Raise ValueError if one of the `[C]` classes that are to be drawn is empty."""
    if empty.any():
        classes = np.flatnonzero(empty)[:10].tolist()
        raise ValueError(f"labels have no example of the classes {classes}, wanted one of each at least.")
