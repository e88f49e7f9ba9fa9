"""A quota of labeled rows in every batch, for training where few rows have a label.

Drawn by chance, a batch of 100 from 60,000 rows with 10 labels has a labeled row once in 60 batches; all the others
train on what the model predicts itself.

References:
  Arazo et al., Pseudo-labeling and confirmation bias in deep semi-supervised learning, 2020 (arXiv 1908.02983).

Method: a quota of labeled rows
Paper: 1908.02983
Experiment: pseudo_labels
"""

from typing import NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from minibatch_jax._checks import as_key, check_bool, check_count, check_shape
from minibatch_jax.mining.class_batches import ClassIndex, index_classes
from minibatch_jax.sampling._permutations import permuted
from minibatch_jax.sampling._sampler import Rows, Sampler, rows_of

UNLABELED, LABELED = 0, 1


class LabelledQuotaState(NamedTuple):
    """State of `labelled_quota`.

    Attributes:
      order_key: `[]` key of the orders of all epochs.
      by_label: the data set, unlabeled rows first; `by_label.sizes` `[2]` holds the numbers of unlabeled and labeled
        rows.
      position: `[2]` int32, rows drawn in this epoch of the unlabeled rows, and in this one of the labeled rows.
      epochs: `[2]` int32, epochs of both that are complete.
    """

    order_key: jax.Array
    by_label: ClassIndex
    position: jax.Array
    epochs: jax.Array


def labelled_quota(batch_size: int, quota: int) -> Sampler:
    """Draw batches of which exactly the first `quota` rows are labeled; an epoch has every unlabeled row once.

    Unlabeled rows are in a new order in each epoch. If b - quota does not divide their number, the last batch of an
    epoch is filled up with padding, so that an epoch ends with a batch, and `state.epochs[0]` changes then. Labeled
    rows come in one random order after the other, without an end, so that any two were drawn equally often up to one.
    A quota above their number is allowed, and repeats them. Every row of a batch has the same weight.

    Args:
      batch_size: b, static.
      quota: labeled rows of a batch, static, below b.

    Returns:
      A sampler; `init(key, labeled=labeled)` with `[N]` bool, such as `labels >= 0`. If the mask is traced and has no
      row of a kind, its places are padding; `state.by_label.sizes` tells.

    Raises:
      TypeError: if a size is not a static int; in `init`, if the mask does not hold bools.
      ValueError: if the quota is below 1 or leaves no room for an unlabeled row; in `init`, if the mask is not `[N]`,
        no row is labeled, none is unlabeled, or there are fewer unlabeled rows than a batch wants.

    References:
      Arazo et al., Pseudo-labeling and confirmation bias, 2020 (arXiv 1908.02983).

    Examples:
      >>> sampler = labelled_quota(3, 1)
      >>> state, seen = sampler.init(0, labeled=jnp.array([False, True, False, False, False])), []
      >>> for _ in range(2):
      ...   rows, state = sampler.sample(state)
      ...   seen += rows.indices.tolist()
      >>> seen[0], seen[3], sorted(seen), int(state.epochs[0])
      (1, 1, [0, 1, 1, 2, 3, 4], 1)
    """
    check_count("batch_size", batch_size)
    check_count("quota", quota)
    if quota >= batch_size:
        raise ValueError(
            f"quota is {quota}, wanted at most {batch_size - 1}: one row of the {batch_size} of a batch is unlabeled."
        )
    room = batch_size - quota

    def init(key: jax.Array | int, *, labeled: jax.Array) -> LabelledQuotaState:
        check_shape("labeled", labeled, (None,))
        check_bool("labeled", labeled)
        index = index_classes(labeled.astype(jnp.int32), 2)
        _check_sizes(index.sizes, room)
        own_key, _ = jax.random.split(as_key(key))  # a step may donate the state, but not the key of the caller
        return LabelledQuotaState(own_key, index, jnp.zeros(2, jnp.int32), jnp.zeros(2, jnp.int32))

    def sample(state: LabelledQuotaState) -> tuple[Rows, LabelledQuotaState]:
        labeled, _ = _next_rows(state, LABELED, quota)
        unlabeled, laps = _next_rows(state, UNLABELED, room)
        rows = rows_of(jnp.concatenate([labeled, jnp.where(laps == 0, unlabeled, -1)]))

        sizes = jnp.maximum(state.by_label.sizes, 1)
        position = state.position + jnp.array([room, quota], jnp.int32)
        rounds = jax.lax.div(position, sizes)
        done = position[UNLABELED] >= sizes[UNLABELED]
        left = jnp.stack([jnp.where(done, 0, position[UNLABELED]), (position - rounds * sizes)[LABELED]])
        ends = jnp.stack([done.astype(jnp.int32), rounds[LABELED]])
        return rows, state._replace(position=left, epochs=state.epochs + ends)

    return Sampler(init, sample)


def _next_rows(state: LabelledQuotaState, kind: int, count: int) -> tuple[jax.Array, jax.Array]:
    """Return the next rows `[count]` of a kind, -1 if it has none, and in how many epochs from now they come."""
    index = state.by_label
    size = jnp.maximum(index.sizes[kind], 1)
    ahead = state.position[kind] + jnp.arange(count, dtype=jnp.int32)
    laps = jax.lax.div(ahead, size)
    drawn = permuted(state.order_key, ahead - laps * size, size, 2 * (state.epochs[kind] + laps) + kind)
    rows = index.order[jnp.minimum(index.starts[kind] + drawn, index.order.shape[0] - 1)]
    return jnp.where(index.sizes[kind] > 0, rows, -1), laps


def _check_sizes(sizes: jax.Array, room: int) -> None:
    if isinstance(sizes, jax.core.Tracer):
        return
    unlabeled, labeled = np.asarray(sizes).tolist()
    if labeled == 0:
        raise ValueError(f"labeled has 0 labeled rows of {unlabeled}, wanted at least 1.")
    if unlabeled < room:
        raise ValueError(
            f"labeled has {unlabeled} unlabeled rows, wanted at least {room}, those of a batch beside its quota."
        )
