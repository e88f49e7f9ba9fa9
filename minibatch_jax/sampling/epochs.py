"""Every row once in an epoch, in random order.

Method: epochs without replacement
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count
from minibatch_jax.sampling._sampler import Rows, Sampler, ignore, rows_of


class ShuffledState(NamedTuple):
    """State of `shuffled`.

    Attributes:
      rng_key: `[]` key of the next epoch.
      order: `[N]` int32, order of the rows in this epoch.
      position: `[]` int32, rows of this epoch that were drawn.
      epoch: `[]` int32, epochs that are complete.
    """

    rng_key: jax.Array
    order: jax.Array
    position: jax.Array
    epoch: jax.Array


def shuffled(num_examples: int, batch_size: int) -> Sampler:
    """Draw every row once in an epoch; each epoch has an order of its own.

    If the batch size does not divide the number of examples, the last batch of an epoch is filled up with padding. A
    new order is drawn with the last batch of an epoch and takes a sort of all rows; all other batches take a slice.

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
        rng_key, order = _shuffle(as_key(key), jnp.arange(num_examples, dtype=jnp.int32))
        return ShuffledState(rng_key, order, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def sample(state: ShuffledState) -> tuple[Rows, ShuffledState]:
        places = state.position + jnp.arange(batch_size, dtype=jnp.int32)
        drawn = jnp.where(places < num_examples, state.order[jnp.minimum(places, num_examples - 1)], -1)
        position = state.position + batch_size
        done = position >= num_examples
        rng_key, order = jax.lax.cond(done, _shuffle, _keep, state.rng_key, state.order)
        epoch = state.epoch + done.astype(jnp.int32)
        return rows_of(drawn), ShuffledState(rng_key, order, jnp.where(done, 0, position), epoch)

    return Sampler(init, sample, ignore)


def _shuffle(rng_key: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
    next_key, order_key = jax.random.split(rng_key)
    return next_key, jax.random.permutation(order_key, jnp.arange(order.shape[0], dtype=jnp.int32))


def _keep(rng_key: jax.Array, order: jax.Array) -> tuple[jax.Array, jax.Array]:
    return rng_key, order
