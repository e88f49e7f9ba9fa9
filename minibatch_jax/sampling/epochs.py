"""Every row once in an epoch, in random order.

Method: epochs without replacement
Experiment: speed samplers
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count
from minibatch_jax.sampling._permutations import permuted
from minibatch_jax.sampling._sampler import Rows, Sampler, rows_of


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
