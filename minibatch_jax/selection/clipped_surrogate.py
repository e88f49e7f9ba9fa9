"""PPO's clipped surrogate as weights: how much each action of a mini-batch may still change the policy.

The gradient of PPO's loss is that of `-advantage * log pi` with the weight `ratio / B`, where the ratio is that of the
action's probability now to the one with which it was drawn, and 0 once the action has moved beyond the clip range in
the direction of its advantage. So PPO is a transformation of the weights of policy-gradient losses, and composes with
padding masks and samplers as any other.

References:
  Schulman et al., Proximal policy optimization algorithms, 2017 (arXiv 1707.06347).
  Jaeger et al., CaRL: learning scalable planning policies with simple rewards, 2025 (arXiv 2504.17838).

Method: PPO's clipped surrogate
Paper: 1707.06347, 2504.17838
Experiment: ppo_minibatches
"""

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_floating, check_number, check_shape
from minibatch_jax.weights import weight_dtype, weight_transformation


def clipped_ratios(log_ratios: jax.Array, advantages: jax.Array, clip: float | jax.Array = 0.2) -> jax.Array:
    """Return the ratio of each action's probabilities, 0 where the clipped surrogate has no gradient.

    That is where the ratio is above 1 + clip and the advantage at least 0, or the ratio below 1 - clip and the
    advantage negative. A ratio at the edge itself counts. `-advantages * clipped_ratios / B` is the gradient of the
    mean of `max(-A r, -A clip(r, 1 - clip, 1 + clip))` for the log-probabilities.

    Args:
      log_ratios: `[B]`, log-probability of each action less that when it was drawn.
      advantages: `[B]`.
      clip: half the width of the range, > 0, may be traced.

    Returns:
      `[B]`, at least 0, float32 at least; 0 where a ratio or advantage is not finite.

    Raises:
      TypeError: if an array is not floating point or the clip not a number.
      ValueError: if shapes differ or the clip is not positive.

    References:
      Schulman et al., 2017 (arXiv 1707.06347).

    Examples:
      >>> log_ratios = jnp.log(jnp.array([2.0, 2.0, 0.5, 0.5]))
      >>> clipped_ratios(log_ratios, jnp.array([1.0, -1.0, 1.0, -1.0])).tolist()
      [0.0, 2.0, 0.5, 0.0]
    """
    check_shape("log_ratios", log_ratios, (None,))
    check_shape("advantages", advantages, log_ratios.shape)
    check_floating("log_ratios", log_ratios)
    check_floating("advantages", advantages)
    check_number("clip", clip, 0, open_low=True)
    ratios = jnp.exp(log_ratios.astype(weight_dtype(log_ratios.dtype)))
    counts = jnp.where(advantages >= 0, ratios <= 1 + clip, ratios >= 1 - clip)
    return jnp.where(counts & jnp.isfinite(ratios) & jnp.isfinite(advantages), ratios, 0)


def reweigh_by_clipped_surrogate(clip: float = 0.2) -> optax.GradientTransformationExtraArgs:
    """Multiply the weights by the clipped ratios of PPO. Signals: `log_ratios`, `advantages` [B].

    The losses are `-advantages * log_probs`, from an `items_fn` with `has_aux` that also returns the `log_ratios`,
    `log_probs` less those of the rollout. The gradient of `value_and_grad` is then that of PPO's loss; its value is
    the weighted sum of these losses, which is not PPO's loss, and falls for other reasons. Losses of the value function
    and the entropy keep their weights: give them as further items and leave them out with `optax.masked`.

    Args:
      clip: half the width of the range of ratios, > 0, may be traced.

    Returns:
      A transformation over `[B]` weights. Their sum changes: do not normalize it.

    Raises:
      TypeError: if the clip is not a number or, in `update`, a signal is not floating point.
      ValueError: if the clip is not positive or, in `update`, the signals are not `[B]`.

    References:
      Schulman et al., 2017 (arXiv 1707.06347).

    Examples:
      >>> tx = reweigh_by_clipped_surrogate(0.1)
      >>> signals = {"log_ratios": jnp.log(jnp.array([1.25, 0.5])), "advantages": jnp.array([1.0, 2.0])}
      >>> tx.update(jnp.full(2, 0.5), tx.init(jnp.ones(2)), **signals)[0].round(3).tolist()
      [0.0, 0.25]
    """
    check_number("clip", clip, 0, open_low=True)

    def update(weights, state, params=None, *, log_ratios, advantages, **extra_args):
        check_shape("log_ratios", log_ratios, weights.shape)
        return weights * clipped_ratios(log_ratios, advantages, clip).astype(weights.dtype), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)
