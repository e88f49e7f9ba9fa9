"""Batches from a few groups of classes, for labels of two levels: the hardest negatives are of the same group.

References:
  Cakir et al., Deep metric learning to rank, CVPR 2019.

Method: batches of groups of classes
Experiment: pairs_that_count
"""

import math
from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import as_key, check_count, check_integer, check_shape
from minibatch_jax._vector import class_numbers
from minibatch_jax.mining.class_batches import ClassIndex, examples_of, index_classes
from minibatch_jax.sampling._permutations import permuted
from minibatch_jax.sampling._sampler import Rows, Sampler, rows_of
from minibatch_jax.sampling.classes import index_every_class

MOST = 2**31 - 1
"""Batches of an epoch, at most."""


class ByHierarchyState(NamedTuple):
    """State of `by_hierarchy`.

    Attributes:
      rng_key: `[]` key of the next batch.
      examples: the data set by class.
      classes: the classes by group.
      groups: `[G]` int32, the groups; those without classes come last.
      num_groups: `[]` int32, groups that have classes.
      order_key: `[]` key of the order of the batches in this epoch.
      position: `[]` int32, batches of this epoch that were drawn.
      epoch: `[]` int32, epochs that are complete.
    """

    rng_key: jax.Array
    examples: ClassIndex
    classes: ClassIndex
    groups: jax.Array
    num_groups: jax.Array
    order_key: jax.Array
    position: jax.Array
    epoch: jax.Array


def by_hierarchy(
    num_classes: int,
    num_groups: int,
    *,
    groups_per_batch: int,
    classes_per_group: int,
    per_class: int,
    batches_per_combination: int | None = 1,
) -> Sampler:
    """Draw g groups, P random classes of each, and K examples of each class.

    An epoch has every combination of g groups `batches_per_combination` times, in random order. Neither the
    combinations nor their order are held in memory: the groups of a batch are a function of its place in the epoch.
    With None, an epoch has every group once, in random order, and the last batch is filled up with padding.

    Classes are drawn without replacement; a group of fewer than P gives all of them, and padding for the others. The K
    examples of a class are different ones if it has K, else drawn with replacement. The batch lists one class after the
    other, and one group after the other.

    Args:
      num_classes: C, labels are in [0, C), static.
      num_groups: G, groups are in [0, G), static.
      groups_per_batch: g, static, at most G.
      classes_per_group: P, static.
      per_class: K, static.
      batches_per_combination: batches of each combination of groups in an epoch, static; None for epochs with every
        group once, such as for many groups.

    Returns:
      A sampler of g P K rows; `init(key, labels=labels, groups=groups)` with `[N]` int labels and the `[N]` int group
      of each example, the same for all examples of a class.

    Raises:
      TypeError: if a size is not a static int; in `init`, if labels or groups are not integers.
      ValueError: if a size is below 1, g is above G, or an epoch has 2^31 batches or more; in `init`, if labels are
        empty or no vector, groups have another shape, a class or group has no example, or a class is in two groups.

    Examples:
      >>> sampler = by_hierarchy(6, 3, groups_per_batch=2, classes_per_group=2, per_class=1)
      >>> labels, groups = jnp.arange(6), jnp.array([0, 0, 1, 1, 2, 2])
      >>> state, seen, sample = sampler.init(0, labels=labels, groups=groups), [], sampler.sample
      >>> for _ in range(3):
      ...   rows, state = sample(state)
      ...   seen.append(sorted(groups[rows.indices].tolist()))
      >>> sorted(seen), int(state.epoch)
      ([[0, 0, 1, 1], [0, 0, 2, 2], [1, 1, 2, 2]], 1)
    """
    check_count("num_classes", num_classes)
    check_count("num_groups", num_groups)
    check_count("groups_per_batch", groups_per_batch, num_groups, "the number of groups")
    check_count("classes_per_group", classes_per_group)
    check_count("per_class", per_class)
    repeats = batches_per_combination
    if repeats is not None:
        check_count("batches_per_combination", repeats)
        batches = math.comb(num_groups, groups_per_batch) * repeats
        if batches > MOST:
            raise ValueError(f"an epoch has {batches} batches, wanted at most {MOST}: batches_per_combination=None.")

    def init(key: jax.Array | int, *, labels: jax.Array, groups: jax.Array) -> ByHierarchyState:
        examples = index_every_class(labels, num_classes)
        classes = _classes_by_group(labels, groups, examples, num_groups)
        next_key, order_key = jax.random.split(as_key(key))
        order = jnp.argsort(classes.sizes == 0, stable=True).astype(jnp.int32)
        present = jnp.sum(classes.sizes > 0, dtype=jnp.int32)
        position, epoch = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        return ByHierarchyState(next_key, examples, classes, order, present, order_key, position, epoch)

    def sample(state: ByHierarchyState) -> tuple[Rows, ByHierarchyState]:
        next_key, class_key, draw_key, next_order_key = jax.random.split(state.rng_key, 4)
        ranks, num_batches = _group_ranks(state, groups_per_batch, repeats)
        groups = state.groups[jnp.minimum(ranks, num_groups - 1)]
        classes = _some_classes(class_key, state.classes, groups, classes_per_group)
        classes = jnp.where((ranks < state.num_groups)[:, None], classes, -1).reshape(-1)
        drawn = examples_of(draw_key, state.examples, jnp.maximum(classes, 0), per_class)
        rows = rows_of(jnp.where((classes >= 0)[:, None], drawn, -1).reshape(-1))
        done = state.position + 1 >= num_batches
        return rows, state._replace(
            rng_key=next_key,
            order_key=jnp.where(done, next_order_key, state.order_key),
            position=jnp.where(done, 0, state.position + 1),
            epoch=state.epoch + done.astype(jnp.int32),
        )

    return Sampler(init, sample)


def _classes_by_group(labels: jax.Array, groups: jax.Array, examples: ClassIndex, num_groups: int) -> ClassIndex:
    """Sort the classes by the group of their first example. Raise where what is known does not fit."""
    check_shape("groups", groups, jnp.shape(labels))
    check_integer("groups", groups)
    numbers = class_numbers(jnp.asarray(groups), num_groups)
    first = examples.order[jnp.minimum(examples.starts, len(examples.order) - 1)]
    group = jnp.where(examples.sizes > 0, numbers[first], num_groups)
    classes = index_classes(group, num_groups)
    if not isinstance(group, jax.core.Tracer):
        own = np.asarray(class_numbers(jnp.asarray(labels), len(group)))
        strays = (own < len(group)) & (np.append(group, num_groups)[own] != np.asarray(numbers))
        if strays.any():
            several = np.unique(own[strays])[:10].tolist()
            raise ValueError(
                f"labels have the classes {several} in several groups, wanted one group for each class: such as "
                "group * num_classes + label."
            )
        empty = np.flatnonzero(np.asarray(classes.sizes) == 0)
        if len(empty):
            raise ValueError(f"groups have no example of {empty[:10].tolist()}, wanted one of each at least.")
    return classes


def _group_ranks(state: ByHierarchyState, count: int, repeats: int | None) -> tuple[jax.Array, jax.Array]:
    """Return the places `[g]` of the groups of the next batch among those with classes, and the batches of an epoch."""
    if repeats is None:
        places = state.position * count + jnp.arange(count, dtype=jnp.int32)
        size = jnp.maximum(state.num_groups, 1)
        ranks = permuted(state.order_key, jnp.minimum(places, size - 1), size)
        return jnp.where(places < size, ranks, len(state.groups)), (size + count - 1) // count
    table = _binomials(len(state.groups), count)
    combinations = jnp.asarray(table[-1])[jnp.maximum(state.num_groups, count)]
    number = permuted(state.order_key, state.position[None], combinations * repeats)[0] // repeats
    return _combination(number, table), combinations * repeats


def _binomials(num_groups: int, count: int) -> np.ndarray:
    """Return the ways to choose i of c, for i from 1 to g and c from 0 to G, `[g, G + 1]` int32, at most `MOST`."""
    return np.array(
        [[min(math.comb(c, i), MOST) for c in range(num_groups + 1)] for i in range(1, count + 1)], np.int32
    )


def _combination(number: jax.Array, table: np.ndarray) -> jax.Array:
    """Return a combination `[g]` by its number, the largest place first; those below `table[-1, n]` are of [0, n)."""
    places = []
    for row in table[::-1]:  # the largest place whose binomial is not above what remains
        places.append(jnp.sum(jnp.asarray(row) <= number, dtype=jnp.int32) - 1)
        number -= jnp.asarray(row)[places[-1]]
    return jnp.stack(places)


def _some_classes(key: jax.Array, classes: ClassIndex, groups: jax.Array, count: int) -> jax.Array:
    """Return P different classes of each group, `[g, P]`: all of a smaller group, then -1."""
    sizes, places = classes.sizes[groups][:, None], jnp.arange(count, dtype=jnp.int32)[None, :]
    everyone = classes.order[jnp.minimum(classes.starts[groups][:, None] + places, len(classes.order) - 1)]
    drawn = examples_of(key, classes, groups, count)
    return jnp.where(sizes >= count, drawn, jnp.where(places < sizes, everyone, -1))
