"""Which unlabeled examples to label together: those whose labels tell most about the model jointly (BatchBALD).

The k examples with the largest scores of BALD may all tell the same. BatchBALD takes the information that the labels of
the whole set have about the member of the committee, so an example like one taken before adds little.

References:
  Kirsch, van Amersfoort & Gal, BatchBALD: efficient and diverse batch acquisition for deep Bayesian active learning,
  NeurIPS 2019 (arXiv 1906.08158).

Method: BatchBALD
Paper: 1906.08158
Experiment: active_texts, speed strategies
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_count, check_floating, check_shape, mask_or_all
from minibatch_jax._loops import bind, fori_loop, while_loop
from minibatch_jax._vector import first_max, nonzero
from minibatch_jax.geometry import product
from minibatch_jax.selection._draws import keep_rows
from minibatch_jax.selection.committees import consensus_divergence
from minibatch_jax.weights import KeyState, weight_dtype, weight_transformation


class JointChoice(NamedTuple):
    """A greedy choice of k of N examples, in order.

    Attributes:
      indices: `[k]` int32, distinct; N, one past the end, where no example was left.
      gains: `[k]`, what each label tells about the member beyond the labels before it, in nats; 0 where no example was
        left. The sum is the joint mutual information.
    """

    indices: jax.Array
    gains: jax.Array


class _Outcomes(NamedTuple):
    """Labels that the chosen examples may have: S configurations, of which unused ones have probability 0.

    Attributes:
      posterior: `[S, M]`, probability of each member given the labels.
      chances: `[S]`, probability of the labels, or 1/S for draws of them.
    """

    posterior: jax.Array
    chances: jax.Array


def batch_bald_indices(
    key: jax.Array | int,
    committee_logits: jax.Array,
    k: int,
    *,
    where: jax.Array | None = None,
    num_samples: int = 1024,
    block_size: int = 64,
) -> JointChoice:
    """Choose k examples one by one, always the one whose label adds most to the joint mutual information.

    The gain of an example is its score of BALD for the members' probabilities given the labels of the examples chosen
    before, on average over these labels. All configurations of labels are enumerated while there are at most
    `num_samples` of them; after that, as many are drawn, and gains are estimates. The first choice has the largest
    score of BALD. Gains only fall, so an example is looked at again only while its old gain exceeds the best new one.
    O(N) looks in each step at worst, each O(num_samples M C); O(num_samples (M + block_size C)) memory.

    Args:
      key: int seed or key, for the draws of labels and the ties of the first choice.
      committee_logits: `[N, M, C]`, floating point, class scores of M members.
      k: how many to choose, 1 <= k <= N, static.
      where: `[N]` bool, which examples may be chosen; all by default.
      num_samples: largest number of configurations of labels, at least C, static.
      block_size: examples looked at together, static.

    Returns:
      `JointChoice(indices, gains)`. Examples with a member whose softmax is NaN are never chosen.

    Raises:
      TypeError: if the logits are not floating point, a count is not a static int, `where` is not bool or the key is no
        key.
      ValueError: if shapes do not match, k is not in [1, N] or there are fewer samples than classes.

    References:
      Kirsch, van Amersfoort & Gal, NeurIPS 2019 (arXiv 1906.08158).

    Examples:
      >>> alike = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])  # probabilities of four members
      >>> other = jnp.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.1, 0.9]])
      >>> found = batch_bald_indices(0, jnp.log(jnp.stack([alike, alike, other])), 3)
      >>> found.indices[1].tolist(), [round(x, 2) for x in found.gains.tolist()]
      (2, [0.69, 0.37, 0.0])
    """
    check_shape("committee_logits", committee_logits, (None, None, None))
    check_floating("committee_logits", committee_logits)
    size, members, classes = committee_logits.shape
    check_count("k", k, size, "the number of examples")
    check_count("num_samples", num_samples)
    check_count("block_size", block_size)
    if num_samples < classes:
        raise ValueError(f"num_samples is {num_samples}, wanted at least {classes} (the number of classes).")
    keys = jax.random.split(as_key(key), k + 1)
    scores = consensus_divergence(committee_logits)
    free = jnp.isfinite(scores) & mask_or_all("where", where, (size,))
    dtype = weight_dtype(committee_logits.dtype)
    probabilities = jax.nn.softmax(committee_logits.astype(dtype), axis=2)
    probabilities = jnp.where(free[:, None, None], probabilities, 1 / classes)
    noise = jnp.sum(jax.scipy.special.entr(probabilities), axis=2)
    tie_order = jax.random.permutation(keys[k], jnp.arange(size, dtype=jnp.int32))
    bounds = jnp.where(free, scores, -jnp.inf)[tie_order]
    pool = probabilities[tie_order], noise[tie_order]
    outcomes = _Outcomes(
        jnp.full((num_samples, members), 1 / members, dtype), jnp.zeros(num_samples, dtype).at[0].set(1)
    )
    exact_steps = int(math.log(num_samples, max(classes, 2)) + 1e-9)
    state = jnp.full(k, size, jnp.int32), jnp.zeros(k, dtype), bounds, outcomes
    step = bind(_choose_next, pool, keys, exact_steps=exact_steps, block_size=min(block_size, size))
    indices, gains, _, _ = fori_loop(0, k, step, state)
    return JointChoice(jnp.append(tie_order, jnp.int32(size))[indices], gains)


def keep_by_batch_bald(
    k: int, key: jax.Array | int, *, num_samples: int = 1024
) -> optax.GradientTransformationExtraArgs:
    """Keep the k examples whose labels tell most about the model jointly. Signal: `committee_logits` [N, M, C].

    Over the weights `[N]` of a pool, with 0 for what has a label, these are the next examples to label; kept weights
    are unchanged. If fewer than k examples have a weight, all of them are kept. Examples with a member whose softmax is
    NaN are never kept.

    Args:
      k: how many to keep, 1 <= k <= N, static.
      key: typed PRNG key or int seed.
      num_samples: largest number of configurations of labels, at least C, static.

    Returns:
      A transformation over `[N]` weights with `rng_key` in its state.

    Raises:
      TypeError: if a count is not a static int, the key is no key or, in `update`, the logits are not floating point.
      ValueError: if a count is below 1 or, in `update`, k > N, num_samples < C or the logits are not `[N, M, C]`.

    References:
      Kirsch, van Amersfoort & Gal, NeurIPS 2019 (arXiv 1906.08158).

    Examples:
      >>> tx = keep_by_batch_bald(1, key=0)
      >>> committee_logits = jnp.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
      >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)), committee_logits=committee_logits)[0].tolist()
      [0.0, 1.0]
    """
    check_count("k", k)
    check_count("num_samples", num_samples)
    rng_key = as_key(key)

    def update(weights, state, params=None, *, committee_logits, **extra_args):
        check_shape("committee_logits", committee_logits, (*weights.shape, None, None))
        next_key, draw_key = jax.random.split(state.rng_key)
        found = batch_bald_indices(draw_key, committee_logits, k, where=weights != 0, num_samples=num_samples)
        return keep_rows(weights, found.indices), KeyState(next_key)

    return weight_transformation(lambda weights: KeyState(rng_key), update)


def _choose_next(pool, keys, t, state, *, exact_steps, block_size):
    indices, gains, bounds, outcomes = state
    order = jnp.argsort(-bounds).astype(jnp.int32)
    search = order, bounds[order], jnp.full_like(bounds, -jnp.inf), jnp.zeros((), jnp.int32)
    look = bind(_look_at_block, pool, outcomes, block_size=block_size)
    _, sorted_bounds, fresh, looked = while_loop(_may_be_better, look, search)
    gain, place = first_max(fresh)
    valid = gain > -jnp.inf
    j = order[place]
    number = jnp.arange(bounds.shape[0], dtype=jnp.int32)
    bounds = bounds.at[order].set(jnp.where(number < looked, fresh, sorted_bounds))
    label_probabilities = pool[0][j]
    extended = _extend(keys[t], outcomes, label_probabilities, t, exact_steps)
    outcomes = jax.tree.map(lambda new, old: jnp.where(valid, new, old), extended, outcomes)
    return (
        indices.at[t].set(jnp.where(valid, j, bounds.shape[0])),
        gains.at[t].set(jnp.where(valid, gain, 0)),
        bounds.at[j].set(-jnp.inf),
        outcomes,
    )


def _may_be_better(search):
    _, bounds, fresh, looked = search
    bound = bounds[jnp.minimum(looked, bounds.shape[0] - 1)]
    return (looked < bounds.shape[0]) & (bound > jnp.max(fresh))


def _look_at_block(pool, outcomes, search, *, block_size):
    order, bounds, fresh, looked = search
    start = jnp.minimum(looked, order.shape[0] - block_size)
    rows = jax.lax.dynamic_slice(order, (start,), (block_size,))
    allowed = jax.lax.dynamic_slice(bounds, (start,), (block_size,)) > -jnp.inf
    probabilities, noise = pool[0][rows], pool[1][rows]
    members, classes = probabilities.shape[1:]
    columns = probabilities.transpose(1, 2, 0).reshape(members, classes * block_size)
    predicted = product(outcomes.posterior, columns).reshape(-1, classes, block_size)
    entropies = -jnp.sum(predicted * jnp.log(jnp.where(predicted > 0, predicted, 1)), axis=1)
    known = product(noise, product(outcomes.chances, outcomes.posterior))  # of the same members as the entropies
    gains = jnp.maximum(product(outcomes.chances, entropies) - known, 0)
    fresh = jax.lax.dynamic_update_slice(fresh, jnp.where(allowed, gains, -jnp.inf), (start,))
    return order, bounds, fresh, start + block_size


def _extend(key, outcomes, label_probabilities, t, exact_steps):
    """Return the outcomes with the label of one more example, of label probabilities `[M, C]`.

    Until the number of configurations is too large, slot s of them gives the slots s C, ..., s C + C - 1. Then parents
    are drawn evenly by their probability, once, and the label of each next example is drawn for each of them.
    """
    size, classes = outcomes.posterior.shape[0], label_probabilities.shape[1]
    slots = jnp.arange(size, dtype=jnp.int32)
    parent_key, label_key = jax.random.split(key)
    heights = (slots.astype(outcomes.chances.dtype) + jax.random.uniform(parent_key, (), outcomes.chances.dtype)) / size
    drawn = jnp.searchsorted(jnp.cumsum(outcomes.chances), heights, method="sort").astype(jnp.int32)
    is_exact = t < exact_steps
    parents = jnp.where(is_exact, slots // classes, jnp.where(t == exact_steps, jnp.minimum(drawn, size - 1), slots))
    posterior, chances = outcomes.posterior[parents], outcomes.chances[parents]
    predicted = product(posterior, label_probabilities)
    sampled = jax.random.categorical(label_key, jnp.log(predicted), axis=1).astype(jnp.int32)
    labels = jnp.where(is_exact, slots % classes, sampled)
    likelihood = label_probabilities[:, labels].T
    joint = posterior * likelihood
    total = jnp.sum(joint, axis=1, keepdims=True)
    posterior = jnp.where(total > 0, joint / nonzero(total), posterior)
    return _Outcomes(posterior, jnp.where(is_exact, chances * total[:, 0], 1 / size))
