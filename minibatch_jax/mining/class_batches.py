"""Batches of P classes with K examples each, so that every anchor has positives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_integer, check_shape
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import class_numbers


class ClassIndex(NamedTuple):
    """The examples of a data set, sorted by class.

    Fields:
      order: `[N]` int32, example numbers sorted by class.
      starts: `[C]` int32, where each class starts in `order`.
      sizes: `[C]` int32, number of examples of each class.
    """

    order: jax.Array
    starts: jax.Array
    sizes: jax.Array


def index_classes(labels: jax.Array, num_classes: int) -> ClassIndex:
    """Sort a data set by class, once.

    Args:
      labels: `[N]` int; examples with a label outside [0, C) are never drawn.
      num_classes: C, number of classes, static.

    Returns:
      The index for `sample_classes`.

    Raises:
      TypeError: if labels are not integers or the number of classes not a static int.
      ValueError: if labels are empty or not of rank 1.

    Examples:
      >>> index_classes(jnp.array([1, 0, 1]), 2).sizes.tolist()
      [1, 2]
    """
    check_shape("labels", labels, (None,))
    check_integer("labels", labels)
    check_count("num_classes", num_classes)
    classes = class_numbers(labels, num_classes)
    order = jnp.argsort(classes, stable=True).astype(jnp.int32)
    bounds = jnp.searchsorted(classes[order], jnp.arange(num_classes + 1, dtype=jnp.int32)).astype(jnp.int32)
    return ClassIndex(order, bounds[:-1], bounds[1:] - bounds[:-1])


def sample_classes(key: jax.Array, index: ClassIndex, num_classes: int, per_class: int) -> jax.Array:
    """Draw P classes without replacement and K examples of each.

    A class with at least K examples gives K different ones, a smaller one gives draws with replacement.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      index: result of `index_classes` for the data set.
      num_classes: P, number of classes to draw, static; it should not exceed the number of classes that have examples.
      per_class: K, number of examples of each class, static.

    Returns:
      `[P, K]` int32, example numbers. Where P exceeds the number of classes with examples, the surplus rows are -1.

    Raises:
      TypeError: if a count is not a static int.
      ValueError: if P is not in [1, C] or K is below 1.

    Examples:
      >>> index = index_classes(jnp.array([1, 0, 1, 0]), 2)
      >>> sorted(sorted(row) for row in sample_classes(jax.random.key(0), index, 2, 2).tolist())
      [[0, 2], [1, 3]]
    """
    check_count("num_classes", num_classes, index.sizes.shape[0], "the number of classes of the index")
    check_count("per_class", per_class)
    class_key, item_key = jax.random.split(as_key(key))
    scores = jnp.where(index.sizes > 0, jax.random.uniform(class_key, index.sizes.shape), -1)
    _, classes = jax.lax.top_k(scores, num_classes)
    return examples_of(item_key, index, classes, per_class)


def examples_of(key: jax.Array | int, index: ClassIndex, classes: jax.Array, per_class: int) -> jax.Array:
    """Draw K examples of each of the given classes.

    Args:
      key: int seed, typed key or legacy `PRNGKey`.
      index: result of `index_classes` for the data set.
      classes: `[P]` int, classes in [0, C).
      per_class: K, static.

    Returns:
      `[P, K]` int32, different examples in a row if the class has K, else draws with replacement; -1 for a class
      without examples.

    Examples:
      >>> index = index_classes(jnp.array([1, 0, 1, 0]), 2)
      >>> sorted(examples_of(jax.random.key(0), index, jnp.array([1]), 2)[0].tolist())
      [0, 2]
    """
    sizes = index.sizes[classes][:, None]
    offsets = _offsets(as_key(key), sizes, per_class)
    examples = index.order[jnp.minimum(index.starts[classes][:, None] + offsets, index.order.shape[0] - 1)]
    return jnp.where(sizes > 0, examples, -1)


def _offsets(key: jax.Array, sizes: jax.Array, count: int) -> jax.Array:
    """`[P, count]` offsets in [0, size) of sizes `[P, 1]`, all different in a row if size >= count.

    Floyd's algorithm draws every set with the same probability, but not every order: the places are shuffled after it.
    """
    draw_key, place_key = jax.random.split(key)
    enough = sizes >= count
    last = jnp.where(enough, sizes - count + jnp.arange(count, dtype=jnp.int32)[None], jnp.maximum(sizes, 1) - 1)
    drawn = jax.random.randint(draw_key, last.shape, 0, last + 1, jnp.int32)
    chosen = fori_loop(0, count, bind(_take_offset, enough[:, 0], last, drawn), jnp.full(last.shape, -1, jnp.int32))
    places = jnp.argsort(jax.random.uniform(place_key, chosen.shape), axis=1)
    return jnp.take_along_axis(chosen, places, axis=1)


def _take_offset(enough, last, drawn, j, chosen):
    taken = enough & jnp.any(chosen == drawn[:, j, None], axis=1)
    return chosen.at[:, j].set(jnp.where(taken, last[:, j], drawn[:, j]))
