"""Weighted flow matching: independent pairs, each weighted by a Gibbs kernel of its cost. There is nothing to solve.

The weights `exp(-cost / epsilon)` have the form of an entropic plan with constant potentials, so the marginals are
tilted towards items with near partners (noise near the data mean, images of small norm). In high dimension distances
concentrate: if epsilon is about as large as the cost the weights are nearly equal, and if epsilon is small a few pairs
carry all the weight. Look at `effective_sample_size` of the weights. A few iterations of `couple_sinkhorn` with
`tolerance=None` remove the bias (our extension).

References:
  Calvo-Ordonez et al., Weighted conditional flow matching, 2025 (arXiv 2507.22270).

Method: weighted CFM
Paper: 2507.22270
Experiment: weighted_flow, weighted_flow_images, flow_matching_images
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from minibatch_jax._checks import check_choice, check_number
from minibatch_jax.coupling._problem import check_units, kept_weights, statistic
from minibatch_jax.coupling._sinkhorn_loop import divide
from minibatch_jax.weights import weight_dtype, weight_transformation


class KernelState(NamedTuple):
    """State of `couple_by_kernel` with `normalization='ema'`.

    Attributes:
      log_level: `[]`, moving average of the log of the mean kernel.
      num_updates: `[]` int32, updates that had a pair to weigh.
    """

    log_level: jax.Array
    num_updates: jax.Array


def gibbs_weights(
    cost: jax.Array, weights: jax.Array, *, epsilon: float | jax.Array, relative_to: str | None = None
) -> jax.Array:
    """Return the weights times `exp(-cost / epsilon)`, rescaled to the mass of the weights.

    The gradient stops at the cost and at epsilon.

    Args:
      cost: floating point, of the shape of the weights: `[B]` for pairs (i, i), `[B0, B1]` for all pairs. The paper
        takes the Euclidean distance, not its square.
      weights: at least 0; a pair of weight 0 or of non-finite cost gets 0.
      epsilon: width of the kernel, > 0, may be traced.
      relative_to: None if epsilon is absolute, or `'mean'`, `'std'` or `'max'` if it is a fraction of that statistic of
        the cost over pairs that are not 0.

    Returns:
      Weights of the same shape, float32 (float64 if the weights are), with the mass of the incoming weights of finite
      cost.

    Raises:
      ValueError: if the cost does not have the shape of the weights, epsilon is not positive or `relative_to` is
        unknown.

    References:
      Calvo-Ordonez et al., Weighted conditional flow matching, 2025 (arXiv 2507.22270).

    Examples:
      >>> [round(x, 3) for x in gibbs_weights(jnp.array([0.0, 1.0]), jnp.ones(2) / 2, epsilon=1.0).tolist()]
      [0.731, 0.269]
    """
    check_number("epsilon", epsilon, 0, open_low=True)
    check_units(relative_to)
    tilted, _, kept = _tilt(cost, weights.astype(weight_dtype(weights.dtype)), epsilon, relative_to)
    return tilted * divide(jnp.sum(kept), jnp.sum(tilted))


def couple_by_kernel(
    epsilon: float | jax.Array,
    *,
    relative_to: str | None = None,
    normalization: str = "batch",
    decay: float = 0.99,
) -> optax.GradientTransformationExtraArgs:
    """Multiply the weights by a Gibbs kernel of the cost. Signal: `cost`, of the shape of the weights.

    Args:
      epsilon: width of the kernel, > 0, may be traced.
      relative_to: None if epsilon is absolute, or `'mean'`, `'std'` or `'max'` if it is a fraction of that statistic of
        the cost over pairs that are not 0.
      normalization: `'batch'` keeps the mass of each batch. `'ema'` divides by a moving average over batches of the
        mean kernel (in logs), so that far batches count less. `'none'` multiplies by the kernel itself, which may be
        tiny: below 1e-12 it vanishes in bfloat16 and next to Adam's epsilon.
      decay: share of the old value in the moving average, in [0, 1].

    Returns:
      A transformation over weights of any shape, with a `KernelState` for `'ema'` and without state otherwise.

    Raises:
      TypeError: if a number has the wrong type.
      ValueError: if a number is out of range, a name is unknown or, in `update`, the cost does not have the shape of
        the weights.

    References:
      Calvo-Ordonez et al., Weighted conditional flow matching, 2025 (arXiv 2507.22270).

    Examples:
      >>> tx = couple_by_kernel(1.0)
      >>> weights = jnp.ones(2) / 2
      >>> plan, _ = tx.update(weights, tx.init(weights), cost=jnp.array([0.0, 1.0]))
      >>> [round(x, 3) for x in plan.tolist()]
      [0.731, 0.269]
    """
    check_number("epsilon", epsilon, 0, open_low=True)
    check_units(relative_to)
    check_choice("normalization", normalization, ("batch", "ema", "none"))
    check_number("decay", decay, 0, 1)

    def init(weights):
        if normalization != "ema":
            return optax.EmptyState()
        return KernelState(jnp.zeros((), weights.dtype), jnp.zeros((), jnp.int32))

    def update(weights, state, params=None, *, cost, **extra_args):
        if normalization == "batch":
            return gibbs_weights(cost, weights, epsilon=epsilon, relative_to=relative_to), state
        tilted, low, kept = _tilt(cost, weights, epsilon, relative_to)
        if normalization == "none":
            return tilted * jnp.exp(-low), state
        some = jnp.sum(tilted) > 0
        level = jnp.log(jnp.where(some, jnp.sum(tilted) / jnp.sum(jnp.where(some, kept, 1)), 1)) - low
        mixed = jnp.where(state.num_updates == 0, level, decay * state.log_level + (1 - decay) * level)
        mixed = lax.select(some, mixed, state.log_level)
        return tilted * jnp.exp(-low - mixed), KernelState(mixed, state.num_updates + some.astype(jnp.int32))

    return weight_transformation(init, update)


def _tilt(
    cost: jax.Array, weights: jax.Array, epsilon: float | jax.Array, relative_to: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return weights times `exp(low - cost / epsilon)`, low = min(cost / epsilon), and the weights of finite cost."""
    cost = lax.stop_gradient(cost).astype(weights.dtype)
    kept = kept_weights(weights, cost)
    cost = jnp.where(kept > 0, cost, jnp.inf)
    width = lax.stop_gradient(jnp.asarray(epsilon, cost.dtype)) * statistic(cost, relative_to)
    numbers = jnp.finfo(cost.dtype)
    width = jnp.clip(width, numbers.tiny, numbers.max / 8)  # the inverse of each bound is a normal number too
    least = jnp.where(jnp.any(kept > 0), jnp.min(cost), 0)
    return kept * jnp.exp((least - cost) / width), least / width, kept
