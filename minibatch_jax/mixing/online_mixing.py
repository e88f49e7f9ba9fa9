"""Online data mixing (ODM): draw more of the domains of high training loss, as an adversarial bandit does.

References:
  Albalak et al., Efficient online data mixing for language model pre-training, 2023 (arXiv 2312.02406).
  Auer et al., The nonstochastic multiarmed bandit problem, SIAM Journal on Computing 32(1), 2002.

Method: online data mixing (ODM)
Paper: 2312.02406
Experiment: online_mixing, online_mixing_with_noise, speed mixing
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_choice, check_count, check_number, check_whole
from minibatch_jax._vector import nonzero
from minibatch_jax.mixing._mixtures import check_domains, observed, shares, softmax_over
from minibatch_jax.weights import weight_transformation

REWARDS = ("averaged", "perplexity", "perplexity_softmax", "cumulative")
LARGEST_LOG = 80.0
"""its exponential is finite in float32"""


class OdmState(NamedTuple):
    """State of `mix_by_odm`.

    Attributes:
      rewards: `[K]`, estimated reward of each domain, 0 at the start; of perplexities the logarithm, -inf at the start.
      mixture: `[K]`, the last mixture, from which the next losses are drawn; 0 before the first update.
      step: `[]` int32, updates so far, those of the warm-up included.
    """

    rewards: jax.Array
    mixture: jax.Array
    step: jax.Array


def exploration_rate(num_domains: int | jax.Array, step: int | jax.Array, floor: float | jax.Array = 0.0) -> jax.Array:
    """Return ODM's weight of exploration of each domain, `min(1/K, max(sqrt(ln K / (K t)), floor))`.

    Args:
      num_domains: K, at least 1, may be traced.
      step: t, at least 0, may be traced; 1/K at step 0.
      floor: the rate never falls below it, unless it is above 1/K.

    Returns:
      `[]`, float32.

    Raises:
      TypeError: if `num_domains` or `step` is not an int, or `floor` is not a number.
      ValueError: if `num_domains` is below 1, `step` is negative, or `floor` is not in [0, 1].

    References:
      Albalak et al., 2023 (arXiv 2312.02406).

    Examples:
      >>> [round(float(exploration_rate(4, step)), 4) for step in (0, 5, 6, 100)]
      [0.25, 0.25, 0.2403, 0.0589]
    """
    check_count("num_domains", num_domains, traced=True)
    check_whole("step", step)
    check_number("floor", floor, 0, 1)
    number, step = jnp.asarray(num_domains, jnp.float32), jnp.asarray(step, jnp.float32)
    rate = jnp.sqrt(jnp.log(number) / nonzero(number * step))
    rate = jnp.where(step == 0, 1, jnp.maximum(rate, jnp.asarray(floor, jnp.float32)))
    return jnp.minimum(1 / nonzero(number), rate)


def mix_by_odm(
    rewards: str = "averaged",
    *,
    decay: float | jax.Array = 0.9,
    loss_scale: float | jax.Array = 1.0,
    floor: float | jax.Array = 0.0,
    warmup_steps: int | jax.Array = 0,
) -> optax.GradientTransformationExtraArgs:
    """Draw domains of high loss more often (ODM). Signals: `domain_losses` [K], `domain_counts` [K].

    With the rate e_t of `exploration_rate` and the rewards R, the mixture is `p = (1 - K e_t) share + e_t`, so every
    domain keeps at least e_t. For a domain that was drawn, with mean loss L and L' = `loss_scale` x L:

    - "averaged", the paper: `R <- decay R + (1 - decay) L' / p`, share = softmax(e_{t-1} R).
    - "perplexity", the authors' code for batches of several domains: `R <- decay R + (1 - decay) exp(L')`,
      share = R / sum(R). R is kept as a logarithm, so exp does not overflow. A domain that was never drawn has R = 0,
      so only e_t.
    - "perplexity_softmax", the same code for batches of one domain: this R, with share = softmax(e_{t-1} R).
    - "cumulative", EXP3: `R <- R + L' / p`, share = softmax(e_{t-1} R). The authors' code sets `loss_scale` to 0.1.

    The form of the paper freezes at the uniform mixture: its rewards are bounded, and e_t falls to 0. If six domains
    always have loss 1 and six others loss 4, a domain of the second kind weighs 1.58 times as much as one of the first
    after 100 updates, 1.38 times after 1000, 1.15 times after 10000 and 1.05 times after 100000. A `loss_scale` of 15
    and a `floor` of 0.03, as others set them, keep it alive: 3.31 times, after 1000 updates as after 100000. The form
    "perplexity_softmax" freezes, too. While t <= K ln K every form gives the uniform mixture.

    Reward is loss, so noise that nobody can learn attracts the most weight.

    The incoming mixture is what the warm-up draws from, and which domains take part: one that comes with weight 0 stays
    at 0, and K counts the others. A domain that was not drawn or has no finite loss keeps its reward. With one domain
    the weight is that of the incoming one.

    Args:
      rewards: "averaged", "perplexity", "perplexity_softmax" or "cumulative".
      decay: share of the old reward, in [0, 1], may be traced; "cumulative" does not use it.
      loss_scale: factor of the losses, positive, may be traced.
      floor: the rate of exploration never falls below it, in [0, 1], may be traced; above 1/K the mixture is uniform.
      warmup_steps: number of first updates that let the incoming mixture pass and learn nothing, may be traced. The
        published runs use 1 to 2 % of training.

    Returns:
      A transformation over `[K]` weights.

    Raises:
      TypeError: if an argument is not a number or, in `update`, the losses are not floating point or the counts no
        integers.
      ValueError: if `rewards` is unknown, an argument is out of range or, in `update`, a signal is not `[K]`.

    References:
      Albalak et al., 2023 (arXiv 2312.02406).

    Examples:
      >>> tx = mix_by_odm("cumulative")
      >>> weights = jnp.full(2, 0.5)
      >>> state = tx.init(weights)
      >>> for _ in range(10):
      ...   signals = {"domain_losses": jnp.array([1.0, 2.0]), "domain_counts": jnp.array([8, 8])}
      ...   mixture, state = tx.update(weights, state, **signals)
      >>> [round(p, 3) for p in mixture.tolist()]
      [0.337, 0.663]
    """
    check_choice("rewards", rewards, REWARDS)
    check_number("decay", decay, 0, 1)
    check_number("loss_scale", loss_scale, 0, open_low=True)
    check_number("floor", floor, 0, 1)
    check_whole("warmup_steps", warmup_steps)

    def init(weights):
        start = jnp.full_like(weights, -jnp.inf if rewards.startswith("perplexity") else 0)
        return OdmState(start, jnp.zeros_like(weights), jnp.zeros((), jnp.int32))

    def update(weights, state, params=None, *, domain_losses, domain_counts, **extra_args):
        check_domains(weights, domain_losses=domain_losses, domain_counts=domain_counts)
        dtype, alive, prior, step = weights.dtype, weights > 0, shares(weights), state.step + 1
        warm = step > jnp.asarray(warmup_steps, jnp.int32)
        losses = domain_losses.astype(dtype) * jnp.asarray(loss_scale, dtype)
        drawn_from = jnp.where(state.mixture > 0, state.mixture, prior)
        new = _advance(rewards, state.rewards, losses, drawn_from, jnp.asarray(decay, dtype))
        kept = observed(weights, losses, domain_counts) & jnp.isfinite(new) & warm
        estimates = jnp.where(kept, new, state.rewards)
        number = jnp.sum(alive, dtype=jnp.float32)
        rate, before = (exploration_rate(number, t, floor).astype(dtype) for t in (step, state.step))
        share = softmax_over(alive, _logits(rewards, estimates, before, alive))
        explored = (1 - number.astype(dtype) * rate) * share + jnp.where(alive, rate, 0)
        mixture = jnp.where(warm, explored, prior)
        return mixture * jnp.sum(jnp.where(alive, weights, 0)), OdmState(estimates, mixture, step)

    return weight_transformation(init, update)


def _advance(rewards: str, old: jax.Array, losses: jax.Array, drawn_from: jax.Array, decay: jax.Array) -> jax.Array:
    """Return the rewards after these losses, as if every domain was drawn."""
    if rewards.startswith("perplexity"):
        return jnp.logaddexp(old + jnp.log(decay), losses + jnp.log1p(-decay))
    weighted = losses / nonzero(drawn_from)
    return old + weighted if rewards == "cumulative" else decay * old + (1 - decay) * weighted


def _logits(rewards: str, estimates: jax.Array, rate: jax.Array, alive: jax.Array) -> jax.Array:
    """Return the logarithm of the share of each domain, up to a constant."""
    if rewards == "perplexity":
        return estimates
    best = jnp.max(jnp.where(alive, estimates, -jnp.inf))
    if rewards == "perplexity_softmax":  # exp(best) (exp(estimate - best) - 1), the largest factor cut
        finite = jnp.where(jnp.isfinite(best), best, 0)
        return rate * jnp.exp(jnp.minimum(finite, LARGEST_LOG)) * jnp.expm1(estimates - finite)
    return rate * (estimates - best)
