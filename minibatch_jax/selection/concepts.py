"""Choose examples by the concepts they are annotated with: in given proportions (CABS-DM) or many of them (CABS-FM).

References:
  Concept-aware batch sampling improves language-image pretraining, CVPR 2026 (arXiv 2511.20643).

Method: CABS-DM, CABS-FM
Paper: 2511.20643
Experiment: concept_batches, concept_pairs
"""

from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from minibatch_jax._checks import check_count, check_integer, check_shape, mask_or_all
from minibatch_jax._loops import bind, fori_loop
from minibatch_jax._vector import as_index, first_max, nonzero
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.selection.topk import topk_mask
from minibatch_jax.weights import weight_transformation


class Concepts(NamedTuple):
    """Concepts of a batch.

    Attributes:
      ids: `[B, C]` int, concept ids, 0 where `present` is False.
      present: `[B, C]` bool, which ids count: False for repeats in a row, unknown ids and examples left out.
      frequencies: `[V]` int32, how many examples have each concept.
    """

    ids: jax.Array
    present: jax.Array
    frequencies: jax.Array


def concept_targets(frequencies: jax.Array, k: int, cap: int) -> jax.Array:
    """Return how often each concept should occur among k examples: equal shares, at least 1, at most the cap.

    Args:
      frequencies: `[V]` int, how many examples of the super-batch have each concept; a concept without any gets 0.
      k: how many examples are kept, at least 1, static.
      cap: upper limit of each target, at least 1, static.

    Returns:
      `[V]` int32. If the equal shares sum to more than k they are scaled down and rounded down, but not below 1, so
      their sum may still be larger than k.

    Raises:
      TypeError: if the frequencies are not integer or `k` or `cap` is not a static int.
      ValueError: if the frequencies are not `[V]` or `k` or `cap` is below 1.

    References:
      CABS, CVPR 2026 (arXiv 2511.20643).

    Examples:
      >>> concept_targets(jnp.array([9, 0, 5, 2]), k=8, cap=10).tolist()
      [3, 0, 3, 2]
    """
    check_shape("frequencies", frequencies, (None,))
    check_integer("frequencies", frequencies)
    check_count("k", k)
    check_count("cap", cap)
    present = (frequencies > 0).astype(jnp.int32)
    count = jnp.maximum(jnp.sum(present, dtype=jnp.int32), 1)
    base = jnp.minimum(k // count, cap)
    extra = (jnp.cumsum(present) <= k % count) & (base < cap)
    targets = jnp.maximum(base + extra.astype(jnp.int32), 1) * present
    total = jnp.sum(targets, dtype=jnp.int32)
    scaled = jnp.maximum(targets * k // jnp.maximum(total, 1), 1) * present
    return jnp.where(total > k, scaled, targets)


def expected_concepts(frequencies: jax.Array, targets: jax.Array, num_examples: jax.Array | int, k: int) -> jax.Array:
    """Return how often each concept occurs among k examples if concepts occur in the proportions of the targets.

    It is `k * (mean number of concepts of an example) * target / (sum of the targets)`, where the sum is over the
    concepts that the super-batch has.

    Args:
      frequencies: `[V]` int, how many examples of the super-batch have each concept; a concept without any gets 0.
      targets: `[V]`, numbers of at least 0, in any unit.
      num_examples: how many examples of the super-batch have a concept.
      k: how many examples are kept, at least 1, static.

    Returns:
      `[V]` float32, not rounded; 0 if the super-batch has no concept with a target.

    Raises:
      TypeError: if the frequencies are not integer, the targets not real numbers or `k` is not a static int.
      ValueError: if shapes do not match, k is below 1 or concrete targets are negative, not finite or all 0.

    References:
      CABS, CVPR 2026 (arXiv 2511.20643).

    Examples:
      >>> expected_concepts(jnp.array([8, 0, 4]), jnp.array([3.0, 1.0, 1.0]), 12, k=4).tolist()
      [3.0, 0.0, 1.0]
    """
    check_shape("frequencies", frequencies, (None,))
    check_integer("frequencies", frequencies)
    check_count("k", k)
    shares = jnp.where(frequencies > 0, _shares(targets, frequencies.shape[0]), 0)
    in_all = jnp.sum(frequencies, dtype=jnp.float32)
    of_an_example = in_all / jnp.maximum(jnp.asarray(num_examples, jnp.float32), 1)
    return shares * (k * of_an_example / nonzero(jnp.sum(shares)))


def concept_balanced_indices(
    concepts: jax.Array,
    k: int,
    num_concepts: int,
    cap: int = 10,
    *,
    targets: jax.Array | None = None,
    where: jax.Array | None = None,
) -> jax.Array:
    """Choose k examples greedily so that concepts occur equally often, or in the proportions of targets (CABS-DM).

    The gain of an example is a mean over its concepts: `(target - count) / target + 1 / frequency` for a concept whose
    count is below its target, -0.5 for any other. An example with a concept at the cap, or without concepts, cannot be
    chosen. Once that holds for all examples left, the remaining places are filled by the largest mean of
    `(target - count) / target`, examples without concepts last. Ties go to the lowest index.

    By default the targets are those of the paper's code (`concept_targets`): equal, whole and at least 1. Proportions
    of your own become `expected_concepts`, which may be below 1: the gain of such a concept is
    `(target - count) + target / frequency`, so that a concept wanted in every tenth batch adds a tenth.

    Args:
      concepts: `[B, C]` int, concept ids in [0, num_concepts), -1 for none; repeats in a row count once.
      k: how many to choose, 1 <= k <= B, static.
      num_concepts: V, the number of concepts, at least 1, static.
      cap: how often a concept may occur among the chosen, at least 1, static. Raise it with targets that ask for
        more of one concept.
      targets: `[V]`, proportions in which concepts should occur, numbers of at least 0 in any unit; 0 for a concept to
        avoid. Equal by default.
      where: `[B]` bool, which examples may be chosen; all by default.

    Returns:
      `[k]` int32, in order of the choice; B where no example was left.

    Raises:
      TypeError: if the concepts are not integer, the targets not real numbers or `k`, `num_concepts` or `cap` is not a
        static int.
      ValueError: if shapes do not match, k is not in [1, B], `num_concepts` or `cap` is below 1 or concrete targets are
        negative, not finite or all 0.

    References:
      CABS, CVPR 2026 (arXiv 2511.20643).

    Examples:
      >>> concepts = jnp.array([[0, -1], [0, -1], [0, 1], [1, -1]])
      >>> concept_balanced_indices(concepts, k=2, num_concepts=2).tolist()
      [3, 0]
      >>> concept_balanced_indices(concepts, k=2, num_concepts=2, targets=jnp.array([1.0, 0.0])).tolist()
      [0, 1]
    """
    data, where = _concepts(concepts, num_concepts, where)
    size = concepts.shape[0]
    check_count("k", k, size, "the number of examples")
    if targets is None:
        wanted = concept_targets(data.frequencies, k, cap)
    else:
        check_count("cap", cap)
        wanted = expected_concepts(data.frequencies, targets, jnp.sum(data.present.any(1)), k)
    start = jnp.zeros(num_concepts, jnp.int32), where, jnp.zeros(k, jnp.int32)
    return fori_loop(0, k, bind(_take_best, data, wanted, cap=cap), start)[2]


def keep_by_concept_balance(
    k: int, num_concepts: int, cap: int = 10, *, targets: jax.Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """Keep k examples whose concepts occur in the wanted proportions (CABS-DM). Signal: `concepts` [B, C] int.

    An id of -1 is none. Concepts occur equally often, or in the proportions of the targets. The weights of the kept
    examples are unchanged, the others become 0. The choice takes k passes over the super-batch, so it suits B up to a
    few thousand. It favors examples with one rare concept and keeps no example twice; if the concepts are just the
    labels, a class-balanced sampler with replacement does better.

    Args:
      k: how many to keep, 1 <= k <= B, static.
      num_concepts: ids lie in [0, num_concepts), static.
      cap: how often a concept may occur among the kept, static; the published value is 10 for each device. Raise
        it with targets that ask for more of one concept.
      targets: `[V]`, proportions in which concepts should occur, numbers of at least 0 in any unit; 0 for a concept to
        avoid. Equal by default.

    Returns:
      A transformation over `[B]` weights; it needs no losses and has no state.

    Raises:
      TypeError: if a count is not a static int, the targets are not real numbers or, in `update`, the concepts are not
        integer.
      ValueError: if a count is below 1, the targets are not `[V]`, negative, not finite or all 0 or, in `update`, k > B
        or the concepts are not `[B, C]`.

    References:
      CABS, CVPR 2026 (arXiv 2511.20643).

    Examples:
      >>> tx = keep_by_concept_balance(k=2, num_concepts=2)
      >>> concepts = jnp.array([[0, -1], [0, -1], [0, 1], [1, -1]])
      >>> tx.update(jnp.ones(4), tx.init(jnp.ones(4)), concepts=concepts)[0].tolist()
      [1.0, 0.0, 0.0, 1.0]
    """
    check_count("k", k)
    check_count("num_concepts", num_concepts)
    check_count("cap", cap)
    if targets is not None:
        targets = _shares(targets, num_concepts)

    def update(weights, state, params=None, *, concepts, **extra_args):
        check_shape("concepts", concepts, (*weights.shape, None))
        indices = concept_balanced_indices(concepts, k, num_concepts, cap, targets=targets, where=weights != 0)
        return keep_rows(weights, indices), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def keep_by_concept_count(k: int, *, targets: jax.Array | None = None) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples with the most concepts (CABS-FM). Signal: `concepts` [B, C] int, -1 for none.

    With targets an example counts the sum of the targets of its concepts, and so the most of what is wanted. Repeats of
    an id in a row count once. The weights of the kept examples are unchanged, the others become 0. Ties go to the
    lowest index, and padding is never kept.

    Args:
      k: how many to keep, 1 <= k <= B, static.
      targets: `[V]`, what each concept counts, numbers of at least 0; an id of V or more counts 0. Each counts 1 by
        default.

    Returns:
      A transformation over `[B]` weights; it needs no losses and has no state.

    Raises:
      TypeError: if k is not a static int, the targets are not real numbers or, in `update`, the concepts are not
        integer.
      ValueError: if k < 1, the targets are not `[V]`, negative, not finite or all 0 or, in `update`, k > B or the
        concepts are not `[B, C]`.

    References:
      CABS, CVPR 2026 (arXiv 2511.20643).

    Examples:
      >>> tx = keep_by_concept_count(1)
      >>> concepts = jnp.array([[0, 0], [0, 1], [1, -1]])
      >>> tx.update(jnp.ones(3), tx.init(jnp.ones(3)), concepts=concepts)[0].tolist()
      [0.0, 1.0, 0.0]
    """
    check_count("k", k)
    if targets is not None:
        targets = _shares(targets)

    def update(weights, state, params=None, *, concepts, **extra_args):
        check_shape("concepts", concepts, (*weights.shape, None))
        check_integer("concepts", concepts)
        ids = as_index(concepts)
        worth = 1 if targets is None else jnp.where(ids < targets.shape[0], targets[jnp.maximum(ids, 0)], 0)
        counts = jnp.sum(jnp.where(_first_of_each(ids), worth, 0), 1, dtype=weights.dtype)
        return jnp.where(topk_mask(counts, k, where=weights != 0), weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def _take_best(data, targets, t, state, *, cap):
    counts, left, indices = state
    gain, j = first_max(_gains(data, targets, counts, cap, left))
    valid = gain > -jnp.inf
    added = jnp.where(data.present[j] & valid, data.ids[j], counts.shape[0])
    chosen = indices.at[t].set(jnp.where(valid, j, left.shape[0]))
    return counts.at[added].add(1, mode="drop"), left.at[j].set(False), chosen


def _gains(data: Concepts, targets: jax.Array, counts: jax.Array, cap: int, left: jax.Array) -> jax.Array:
    target, count, frequency = (x[data.ids].astype(jnp.float32) for x in (targets, counts, data.frequencies))
    lack = (target - count) / jnp.maximum(target, 1)
    rarity = jnp.minimum(target, 1) / jnp.maximum(frequency, 1)
    gain = _mean(jnp.where(count < target, lack + rarity, -0.5), data.present)
    full = (data.present & (counts >= cap)[data.ids]).any(1)
    valid = left & ~full & data.present.any(1)
    last = jnp.where(data.present.any(1), _mean(lack, data.present), jnp.finfo(jnp.float32).min)
    return jnp.where(valid.any(), jnp.where(valid, gain, -jnp.inf), jnp.where(left, last, -jnp.inf))


def _shares(targets: jax.Array, size: int | None = None) -> jax.Array:
    """Return the targets `[V]` in float32; concrete ones must be finite, at least 0 and not all 0."""
    known = not isinstance(targets, jax.core.Tracer)
    values: Any = np.asarray(targets) if known else targets
    check_shape("targets", values, (size,))
    if not (jnp.issubdtype(values.dtype, jnp.floating) or jnp.issubdtype(values.dtype, jnp.integer)):
        raise TypeError(f"targets has dtype {values.dtype}, wanted real numbers.")
    if known:
        wrong = values[~(np.isfinite(values) & (values >= 0))]
        if wrong.size:
            raise ValueError(f"targets holds {wrong[0]}, wanted finite numbers of at least 0.")
        if not values.any():
            raise ValueError("targets is 0 for all concepts, wanted one above 0 at least.")
    return jnp.asarray(targets, jnp.float32)


def _mean(values: jax.Array, present: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(present, values, 0), 1) / jnp.maximum(jnp.sum(present, 1, dtype=values.dtype), 1)


def _first_of_each(concepts: jax.Array) -> jax.Array:
    """Return `[B, C]` bool, True for the first occurrence of each id in its row."""
    width = concepts.shape[1]
    earlier = jnp.tril(jnp.ones((width, width), bool), -1)
    repeated = ((concepts[:, :, None] == concepts[:, None, :]) & earlier[None]).any(2)
    return (concepts >= 0) & ~repeated


def _concepts(concepts: jax.Array, num_concepts: int, where: jax.Array | None) -> tuple[Concepts, jax.Array]:
    check_shape("concepts", concepts, (None, None))
    check_integer("concepts", concepts)
    check_count("num_concepts", num_concepts)
    concepts = as_index(concepts)
    where = mask_or_all("where", where, concepts.shape[:1])
    present = _first_of_each(concepts) & (concepts < num_concepts) & where[:, None]
    ids = jnp.where(present, concepts, 0)
    counted = jnp.where(present, concepts, num_concepts)
    frequencies = jnp.zeros(num_concepts, jnp.int32).at[counted.reshape(-1)].add(1, mode="drop")
    return Concepts(ids, present, frequencies), where
