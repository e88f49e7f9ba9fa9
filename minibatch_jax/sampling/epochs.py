"""Every row once in an epoch, in random order.

Method: epochs without replacement
Experiment: speed samplers, ppo_minibatches
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_choice, check_count, mask_or_all
from minibatch_jax.sampling._permutations import permuted
from minibatch_jax.sampling._sampler import Rows, Sampler, random_order, rows_of


class ShuffledState(NamedTuple):
    """State of `shuffled`.

    Attributes:
      rng_key: `[]` key of this epoch and of all that follow.
      position: `[]` int32, rows of this epoch that were drawn.
      epoch: `[]` int32, epochs that are complete.
    """

    rng_key: jax.Array
    position: jax.Array
    epoch: jax.Array


def shuffled(num_examples: int, batch_size: int) -> Sampler:
    """Draw every row once in an epoch; each epoch has an order of its own.

    If the batch size does not divide the number of examples, the last batch of an epoch is filled up with padding. The
    order of an epoch is a function of its key that is evaluated for the rows of a batch alone: there is neither a sort
    nor an array of N numbers, and the state is three numbers.

    Args:
      num_examples: N, static.
      batch_size: b, static, at most N.

    Returns:
      A sampler; `init(key)` needs no array.

    Raises:
      TypeError: if a size is not a static int.
      ValueError: if a size is below 1 or the batch is larger than the data set.

    Examples:
      >>> sampler = shuffled(5, 2)
      >>> state, seen = sampler.init(0), []
      >>> for _ in range(3):
      ...   rows, state = sampler.sample(state)
      ...   seen += rows.indices.tolist()
      >>> sorted(seen), rows.weights.tolist(), int(state.epoch)
      ([-1, 0, 1, 2, 3, 4], [1.0, 0.0], 1)
    """
    check_count("num_examples", num_examples)
    check_count("batch_size", batch_size, num_examples, "the number of examples")

    def init(key: jax.Array | int) -> ShuffledState:
        own_key, _ = jax.random.split(as_key(key))
        return ShuffledState(own_key, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def sample(state: ShuffledState) -> tuple[Rows, ShuffledState]:
        next_key, order_key = jax.random.split(state.rng_key)
        places = state.position + jnp.arange(batch_size, dtype=jnp.int32)
        drawn = permuted(order_key, jnp.minimum(places, num_examples - 1), num_examples)
        position = state.position + batch_size
        done = position >= num_examples
        rng_key, position = jnp.where(done, next_key, state.rng_key), jnp.where(done, 0, position)
        rows = rows_of(jnp.where(places < num_examples, drawn, -1))
        return rows, ShuffledState(rng_key, position, state.epoch + done.astype(jnp.int32))

    return Sampler(init, sample)


def epoch_rows(
    key: jax.Array | int,
    num_examples: int,
    batch_size: int,
    *,
    where: jax.Array | None = None,
    fill: str = "mask",
) -> Rows:
    """Return all mini-batches of one epoch, for data that lives for a few epochs only, such as the rollouts of PPO.

    What the batches have room for beyond the rows that exist is padding of weight 0 with `fill="mask"`, so that every
    row counts once. With `fill="tile"` rows are repeated, as some implementations of PPO do: no batch has padding, and
    some rows count once more than others.

    Args:
      key: int seed or key.
      num_examples: N, static.
      batch_size: b, static, at most N.
      where: `[N]` bool, rows that exist, such as those before a rollout was cut short; all by default.
      fill: "mask" or "tile".

    Returns:
      Rows `[ceil(N / b), b]`, to scan over. The weights of a batch sum to 1, or are 0 if it is all padding. If no row
      exists, all is padding.

    Raises:
      TypeError: if a size is not a static int or the mask does not hold bools.
      ValueError: if a size is below 1, the batch is larger than the data, `fill` is unknown or the mask is not `[N]`.

    References:
      Schulman et al., 2017 (arXiv 1707.06347).

    Examples:
      >>> rows = epoch_rows(0, 5, 2)
      >>> sorted(rows.indices.flatten().tolist()), rows.weights.sum(axis=1).tolist()
      ([-1, 0, 1, 2, 3, 4], [1.0, 1.0, 1.0])
    """
    check_count("num_examples", num_examples)
    check_count("batch_size", batch_size, num_examples, "the number of examples")
    check_choice("fill", fill, ("mask", "tile"))
    exists = mask_or_all("where", where, (num_examples,))
    batches = -(-num_examples // batch_size)
    order_key, places_key = jax.random.split(as_key(key))
    places = jnp.arange(batches * batch_size, dtype=jnp.int32)
    if fill == "tile":
        number = jnp.sum(exists, dtype=jnp.int32)
        turns = jax.random.permutation(places_key, places) % jnp.maximum(number, 1)
        drawn = jnp.where(number > 0, random_order(order_key, exists)[turns], -1)
    else:
        order = jax.random.permutation(order_key, num_examples).astype(jnp.int32)
        order = jnp.where(exists[order], order, -1)
        drawn = jnp.pad(order, (0, len(places) - num_examples), constant_values=-1)
    return jax.vmap(rows_of)(drawn.reshape(batches, batch_size))
