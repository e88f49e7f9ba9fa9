"""P classes that look alike and K examples of each in a batch, by proxies that are refreshed while training.

References:
  Ali-bey et al., Global proxy-based hard mining for visual place recognition, 2022 (arXiv 2302.14217).

Method: GPM
Paper: 2302.14217
Experiment: place_mining
"""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape, mask_or_all
from minibatch_jax._loops import bind, cond
from minibatch_jax._vector import class_numbers
from minibatch_jax.devices import replicate
from minibatch_jax.mining.class_batches import ClassIndex, examples_of, index_classes
from minibatch_jax.mining.proxies import Proxies, init_proxies, partition_by_proxies, update_proxies
from minibatch_jax.sampling._sampler import Rows, Sampler, random_order, rows_of
from minibatch_jax.sampling.classes import check_no_class_empty


class ByProxiesState(NamedTuple):
    """State of `by_proxies`.

    Attributes:
      rng_key: `[]` key of the next batch.
      labels: `[N]` int32, class of each row; C for rows of no class.
      examples: the data set by class.
      given: `[C]` bool, which classes are drawn.
      proxies: one vector for each class.
      partition: `[C // P, P]` int32, classes of each batch of this epoch; -1 beyond the last class.
      position: `[]` int32, batches of this epoch that were drawn.
      epoch: `[]` int32, epochs that are complete.
      ignored: `[]` int32, rows fed back that were of no class or had an embedding that is not finite.
    """

    rng_key: jax.Array
    labels: jax.Array
    examples: ClassIndex
    given: jax.Array
    proxies: Proxies
    partition: jax.Array
    position: jax.Array
    epoch: jax.Array
    ignored: jax.Array


def by_proxies(
    num_classes: int,
    classes_per_batch: int,
    per_class: int,
    dimension: int,
    *,
    temperature: float | jax.Array = 0.0,
    decay: float | jax.Array = 0.0,
) -> Sampler:
    """Draw P classes that are neighbors and K examples of each; `update(embeddings=...)` says what is near.

    Each class has a proxy, the mean embedding of its examples in the last batch that had it. The first epoch is in
    random order. With the first batch of each later epoch the classes are partitioned anew by `partition_by_proxies`: a
    random class and its nearest neighbors among those that remain make a batch. Every class comes once in an epoch, but
    for the C mod P that are left out, others in each epoch. Classes never fed back fill up batches.

    The K examples of a class are drawn anew at each visit: different ones if it has K, else with replacement. The batch
    lists one class after the other. Of the embeddings, only their directions count; those of a small head that is
    trained with the network keep `[C, D]` small. A partition takes C / P products of the proxies with one of them,
    under `vmap` in every step, as `vmap` runs both sides of a condition.

    Args:
      num_classes: C, labels are in [0, C), static.
      classes_per_batch: P, static, at most C.
      per_class: K, static.
      dimension: D, of the embeddings that are fed back, static.
      temperature: >= 0, may be traced; above 0 neighbors are drawn with probabilities exp(cosine / temperature),
        without replacement, and an infinite temperature gives random batches.
      decay: share of the old proxy that is kept, in [0, 1], may be traced.

    Returns:
      A sampler of P K rows; `init(key, labels=labels, classes=None)` with `[N]` int labels and a `[C]` bool mask of the
      classes to draw, all by default, and `update(state, rows, embeddings=embeddings)` with `[P K, D]` embeddings of
      those rows. If traced labels give fewer than P classes examples, the batch is filled up with padding. The state's
      field `given` `[C]` may be changed in training, to P classes or more; it counts from the next epoch on.

    Raises:
      TypeError: if a size is not a static int; in `init` and `update`, if labels are not integers, classes not bool or
        embeddings not floating point.
      ValueError: if a size is below 1, P is above C or a number out of range; in `init`, if labels are empty or no
        vector, classes are not `[C]` or fewer than P, or one of them has no example; in `update`, if the embeddings are
        not `[P K, D]`.

    Examples:
      >>> labels = jnp.array([0, 1, 2, 3])
      >>> embeddings = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])  # 0 is near 2 and 1 near 3
      >>> sampler = by_proxies(4, 2, 1, 2)
      >>> state, pairs, sample = sampler.init(0, labels=labels), [], sampler.sample
      >>> for _ in range(4):
      ...   rows, state = sample(state)
      ...   state = sampler.update(state, rows, embeddings=embeddings[rows.indices])
      ...   pairs.append(sorted(rows.indices.tolist()))
      >>> sorted(pairs[2:])
      [[0, 2], [1, 3]]
    """
    check_count("num_classes", num_classes)
    check_count("classes_per_batch", classes_per_batch, num_classes, "the number of classes")
    check_count("per_class", per_class)
    check_count("dimension", dimension)
    check_number("temperature", temperature, 0)
    check_number("decay", decay, 0, 1)
    num_batches = num_classes // classes_per_batch

    def init(key: jax.Array | int, *, labels: jax.Array, classes: jax.Array | None = None) -> ByProxiesState:
        index = index_classes(labels, num_classes)
        given = mask_or_all("classes", classes, (num_classes,))
        _check_classes(given, index.sizes, classes_per_batch)
        given &= index.sizes > 0
        next_key, order_key = jax.random.split(as_key(key))
        present = jnp.sum(given, dtype=jnp.int32)
        drawn = jnp.where(present < classes_per_batch, present, present // classes_per_batch * classes_per_batch)
        order = random_order(order_key, given)[: num_batches * classes_per_batch]
        partition = jnp.where(jnp.arange(len(order), dtype=jnp.int32) < drawn, order, -1).reshape(
            num_batches, classes_per_batch
        )
        proxies = init_proxies(num_classes, dimension)
        numbers = [jnp.zeros((), jnp.int32) for _ in range(3)]
        known = class_numbers(jnp.asarray(labels), num_classes)
        return ByProxiesState(next_key, known, index, given, proxies, partition, *numbers)

    def sample(state: ByProxiesState) -> tuple[Rows, ByProxiesState]:
        next_key, draw_key, order_key = jax.random.split(state.rng_key, 3)
        fixed = None if isinstance(temperature, jax.Array) else float(temperature)
        renew = bind(_renewed, jnp.asarray(temperature), number=classes_per_batch, fixed=fixed)
        partition = cond((state.position == 0) & (state.epoch > 0), renew, _as_before, order_key, state)
        classes = partition[state.position]
        drawn = examples_of(draw_key, state.examples, jnp.maximum(classes, 0), per_class)
        rows = rows_of(jnp.where(classes[:, None] >= 0, drawn, -1).reshape(-1))
        following = state.position + 1
        done = (following >= num_batches) | (partition[jnp.minimum(following, num_batches - 1), 0] < 0)
        return rows, state._replace(
            rng_key=next_key,
            partition=partition,
            position=jnp.where(done, 0, following),
            epoch=state.epoch + done.astype(jnp.int32),
        )

    def update(state: ByProxiesState, rows: Rows, *, embeddings: jax.Array, **signals: object) -> ByProxiesState:
        check_shape("embeddings", embeddings, (rows.indices.shape[0], dimension))
        check_floating("embeddings", embeddings)
        embeddings = replicate(embeddings)
        number = state.labels.shape[0]
        known = (rows.indices >= 0) & (rows.indices < number)
        labels = jnp.where(known, state.labels[jnp.where(known, rows.indices, 0)], num_classes)
        usable = (labels < num_classes) & jnp.all(jnp.isfinite(embeddings), axis=1)
        proxies = update_proxies(state.proxies, embeddings, jnp.where(usable, labels, -1), decay=decay)
        ignored = state.ignored + jnp.sum(~usable & (rows.weights != 0), dtype=jnp.int32)
        return state._replace(proxies=proxies, ignored=ignored)

    return Sampler(init, sample, update)


def _renewed(
    temperature: jax.Array, key: jax.Array, state: ByProxiesState, *, number: int, fixed: float | None
) -> jax.Array:
    """Return a new partition at a temperature that is fixed, or else traced."""
    temperature_now = temperature if fixed is None else fixed
    return partition_by_proxies(key, state.proxies, number, where=state.given, temperature=temperature_now)


def _as_before(key: jax.Array, state: ByProxiesState) -> jax.Array:
    return state.partition


def _check_classes(given: jax.Array, sizes: jax.Array, at_least: int) -> None:
    """Raise unless enough classes are given and each of them has an example, as far as both are known."""
    if isinstance(given, jax.core.Tracer) or isinstance(sizes, jax.core.Tracer):
        return
    chosen = np.asarray(given)
    if chosen.sum() < at_least:
        raise ValueError(f"classes has {chosen.sum()} True, wanted at least {at_least} (classes_per_batch).")
    check_no_class_empty(chosen & (np.asarray(sizes) == 0))
