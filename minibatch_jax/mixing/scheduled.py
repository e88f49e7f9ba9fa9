"""A mixture schedule as a transformation of the domains' weights.

References:
  Feng et al., Maximize your data's potential: enhancing LLM accuracy with two-phase pretraining, 2024
    (arXiv 2412.15285).

Method: two-phase and staged mixtures
Paper: 2412.15285
Experiment: two_phase_mixture
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_shape
from minibatch_jax._vector import nonzero
from minibatch_jax.mixing.phases import Mixture
from minibatch_jax.weights import weight_transformation


class ScheduleState(NamedTuple):
    """State of `mix_by_schedule`.

    Attributes:
      step: `[]` int32, number of updates so far.
      empty: `[]` bool, whether the last mixture had nothing on any domain whose weight was not 0, so that all became 0.
    """

    step: jax.Array
    empty: jax.Array


def mix_by_schedule(mixture: Mixture) -> optax.GradientTransformationExtraArgs:
    """Give the domains the proportions of a mixture schedule; they are those of step 0 at the first update.

    What the weights were does not matter beside their sum, which stays, and zeros: a domain of weight 0 gets none, and
    the others share what it would have had. Put it first in a chain, to start another transformation from it;
    `mix_by_odm` draws its warm-up from what comes in, and after that only keeps the zeros.

    Args:
      mixture: `fn(step) -> [K]`, such as `two_phase_mixture` returns. Proportions that are negative or not finite
        count as 0.

    Returns:
      A transformation over `[K]` weights; it reads no signal.

    Raises:
      TypeError: if `mixture` is not a function.
      ValueError: in `update`, if it gives another shape than that of the weights.

    Examples:
      >>> from minibatch_jax.mixing import two_phase_mixture
      >>> tx = mix_by_schedule(two_phase_mixture(jnp.array([0.75, 0.25]), jnp.array([0.5, 0.5]), 1))
      >>> weights = jnp.array([0.5, 0.5])
      >>> first, state = tx.update(weights, tx.init(weights))
      >>> first.tolist(), tx.update(weights, state)[0].tolist()
      ([0.75, 0.25], [0.5, 0.5])
    """
    if not callable(mixture):
        raise TypeError(f"mixture is {mixture!r}, wanted a function of the step.")

    def init(weights):
        return ScheduleState(jnp.zeros((), jnp.int32), jnp.zeros((), bool))

    def update(weights, state, params=None, **extra_args):
        given = jnp.asarray(mixture(state.step))
        check_shape("the mixture of a step", given, weights.shape)
        usable = (weights > 0) & jnp.isfinite(given) & (given > 0)
        given = jnp.where(usable, given, 0).astype(weights.dtype)
        scale = jnp.sum(weights) / nonzero(jnp.sum(given))
        return given * scale, ScheduleState(state.step + 1, ~jnp.any(usable))

    return weight_transformation(init, update)
