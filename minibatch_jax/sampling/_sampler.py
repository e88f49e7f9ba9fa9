"""What all samplers are: three pure functions over a state, and the rows that they draw."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Rows(NamedTuple):
    """Rows of the next batch.

    Attributes:
      indices: `[b]` int32, rows of the data set; -1 on padding.
      weights: `[b]` float32, they sum to 1 and are 0 on padding; give them to `value_and_grad(weights=...)`.
    """

    indices: jax.Array
    weights: jax.Array


def ignore(state: Any, rows: Rows, **signals: Any) -> Any:
    """Return the state as it is."""
    return state


class Sampler(NamedTuple):
    """A rule for what is in the next batch. All three functions are pure, and the state is a tree of arrays.

    Attributes:
      init: `init(key, **arrays) -> state`, with what the sampler must know of the data set.
      sample: `sample(state) -> (Rows, state)`: draw the next batch. It needs no signal, so that a batch may be drawn
        ahead.
      update: `update(state, rows, **signals) -> state`: tell the sampler what was seen of rows it drew, late or out of
        order. By default nothing is fed back, and the state stays as it is.
    """

    init: Callable[..., Any]
    sample: Callable[[Any], tuple[Rows, Any]]
    update: Callable[..., Any] = ignore


def rows_of(indices: jax.Array) -> Rows:
    """Return rows of equal weight, and weight 0 where the index is negative."""
    exists = indices >= 0
    count = jnp.maximum(jnp.sum(exists, dtype=jnp.int32), 1).astype(jnp.float32)
    return Rows(jnp.where(exists, indices, -1).astype(jnp.int32), jnp.where(exists, 1 / count, 0))


def random_order(key: jax.Array, present: jax.Array) -> jax.Array:
    """Return the places `[C]` of a mask in random order, those that are not present last."""
    places = jnp.where(present, jax.random.uniform(key, present.shape), jnp.inf)
    return jnp.argsort(places, stable=True).astype(jnp.int32)
