"""Selective-Backprop: keep an example with a probability that grows with the rank of its loss among recent losses.

References:
  Jiang et al., Accelerating deep learning by focusing on the biggest losers, 2019 (arXiv 1910.00762).

Method: Selective-Backprop
Paper: 1910.00762
Experiment: quarter_of_a_batch
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import as_key, check_choice, check_count, check_floating, check_number, check_shape
from minibatch_jax.selection._draws import keep_with_probability
from minibatch_jax.weights import weight_dtype, weight_transformation


class SelectiveBackpropState(NamedTuple):
    """State of `keep_by_loss_rank`.

    Attributes:
      rng_key: typed PRNG key of the next draw.
      history: `[history]` losses of the examples seen last, newest batch first; NaN where fewer were seen.
    """

    rng_key: jax.Array
    history: jax.Array


def loss_ranks(losses: jax.Array, history: jax.Array) -> jax.Array:
    """Return the share of the recent losses that are at most as large as each loss.

    Equal losses share the highest rank, so the largest loss of the history has rank 1.

    Args:
      losses: `[B]`, floating point.
      history: `[H]`, floating point, recent losses; entries that are not finite do not count.

    Returns:
      `[B]` in [0, 1], float32 (float64 if the losses are); 0 where a loss is not finite or the history holds none.

    Raises:
      TypeError: if losses or history are not floating point.
      ValueError: if they are not vectors.

    Examples:
      >>> loss_ranks(jnp.array([1.0, 2.0, 9.0]), jnp.array([1.0, 2.0, 3.0, 4.0, jnp.nan])).tolist()
      [0.25, 0.5, 1.0]
    """
    for name, value in (("losses", losses), ("history", history)):
        check_shape(name, value, (None,))
        check_floating(name, value)
    dtype = weight_dtype(losses.dtype)
    ordered = jnp.sort(jnp.where(jnp.isfinite(history), history, jnp.nan).astype(dtype))
    number = jnp.sum(jnp.isfinite(ordered), dtype=dtype)
    below = jnp.searchsorted(ordered, losses.astype(dtype), side="right").astype(dtype)
    return jnp.where(jnp.isfinite(losses), below / jnp.maximum(number, 1), 0)


def keep_by_loss_rank(
    power: float, key: jax.Array | int, *, history: int = 1024, weighting: str = "own"
) -> optax.GradientTransformationExtraArgs:
    """Keep each example with probability `rank^power`, its rank that among recent losses. Signal: `losses` [B].

    The recent losses are the last `history` ones of examples with a weight, those of this batch included. The number
    of kept examples is random, on average `1 / (power + 1)` of the batch while the losses keep their distribution.

    Args:
      power: at least 0; 0 keeps all, the paper uses 1, 2 and 3.
      key: int seed, typed PRNG key or legacy key.
      history: how many losses are remembered, static.
      weighting: what a kept example weighs: "own", as it came (as published), or "unbiased", divided by its
        probability; do not normalize afterwards then.

    Returns:
      A transformation over `[B]` weights; with "unbiased" the mass is kept in expectation only.

    Raises:
      TypeError: if the key is no key, a number is none or, in `update`, the losses are not floating point.
      ValueError: if `power` is negative, `history` is not positive, `weighting` is unknown or, in `update`, the losses
        are not `[B]`.

    References:
      Jiang et al., 2019 (arXiv 1910.00762).

    Examples:
      >>> tx = keep_by_loss_rank(power=40.0, key=0)
      >>> losses = jnp.array([0.1, 0.2, 0.3, 4.0])
      >>> tx.update(jnp.ones(4), tx.init(jnp.ones(4)), losses=losses)[0].tolist()
      [0.0, 0.0, 0.0, 1.0]
    """
    check_number("power", power, 0)
    check_count("history", history)
    check_choice("weighting", weighting, ("own", "unbiased"))
    rng_key = as_key(key)

    def init(weights):
        return SelectiveBackpropState(rng_key, jnp.full(history, jnp.nan, weights.dtype))

    def update(weights, state, params=None, *, losses, **extra_args):
        check_shape("losses", losses, weights.shape)
        check_floating("losses", losses)
        seen = jnp.where((weights != 0) & jnp.isfinite(losses), losses.astype(weights.dtype), jnp.nan)
        recent = jnp.concatenate([seen, state.history])
        recent = recent[jnp.argsort(jnp.isnan(recent), stable=True)][:history]
        next_key, draw_key = jax.random.split(state.rng_key)
        probability = loss_ranks(seen, recent).astype(weights.dtype) ** power
        probability = jnp.where(jnp.isnan(seen), 0, probability)
        return keep_with_probability(draw_key, weights, probability, weighting), SelectiveBackpropState(
            next_key, recent
        )

    return weight_transformation(init, update)
