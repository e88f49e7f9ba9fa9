"""DoReMi: find a mixture by group DRO of a small proxy model against a reference model.

Train a reference model on the prior mixture and then a proxy of the same size, whose loss is weighted by the mixture of
`mix_by_doremi` (through `domain_to_example_weights`). The result is the mean of the mixtures over all steps; a larger
model is then trained by drawing from it. The last mixture alone is close to one-hot.

References:
  Xie et al., DoReMi: optimizing data mixtures speeds up language model pretraining, 2023 (arXiv 2305.10429).

Method: DoReMi
Paper: 2305.10429
Experiment: proxy_mixtures, speed mixing
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_floating, check_number, check_shape
from minibatch_jax.mixing._mixtures import check_domains, exponentiated_step, observed, running_mean
from minibatch_jax.weights import weight_dtype, weight_transformation


class DoremiState(NamedTuple):
    """State of `mix_by_doremi`.

    Attributes:
      tilt: `[K]`, logarithm of the last mixture over the incoming one.
      excess: `[K]`, last known excess loss of each domain.
      mean_mixture: `[K]`, mean of the mixtures of all updates, which is what the method returns; 0 before the first.
      num_updates: `[]` int32, updates so far.
    """

    tilt: jax.Array
    excess: jax.Array
    mean_mixture: jax.Array
    num_updates: jax.Array


def excess_losses(losses: jax.Array, reference_losses: jax.Array) -> jax.Array:
    """Return how much a proxy loses more than a reference model, at least 0 for each entry.

    Give the losses of tokens, not of documents: a mean over tokens that are clipped one by one is larger than the
    clipped mean. Average afterwards, over the tokens of an example and then by `losses_by_domain`.

    Args:
      losses: any shape, such as `[B, T]`, floating point.
      reference_losses: the same shape.

    Returns:
      The shape of the losses, float32 (float64 if the losses are). NaN where one of both is.

    Raises:
      TypeError: if one is not floating point.
      ValueError: if shapes differ.

    References:
      Xie et al., 2023 (arXiv 2305.10429).

    Examples:
      >>> excess_losses(jnp.array([[3.0, 1.0]]), jnp.array([[2.0, 2.0]])).tolist()
      [[1.0, 0.0]]
    """
    check_floating("losses", losses)
    check_floating("reference_losses", reference_losses)
    check_shape("reference_losses", reference_losses, jnp.shape(losses))
    dtype = weight_dtype(jnp.result_type(losses))
    return jnp.maximum(losses.astype(dtype) - reference_losses.astype(dtype), 0)


def mix_by_doremi(
    step_size: float | jax.Array = 1.0,
    *,
    smoothing: float | jax.Array = 1e-4,
    initial_excess: float | jax.Array = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Raise the weight of domains of large excess loss (DoReMi). Signals: `domain_losses` [K], `domain_counts` [K].

    `domain_losses` are means of `excess_losses`. Each update does `p <- p exp(step_size x excess)`, normalizes, and
    `p <- (1 - smoothing) p + smoothing / K`. It starts from the incoming mixture. A domain that was not drawn, or has
    no finite loss, counts with its last excess. The result is `state.mean_mixture`.

    With a step of 1 and few domains the mixture is unstable: it jumps to one domain, until the excess of the others has
    grown. The authors advise larger batches and a step of 0.1 then.

    A domain that comes with weight 0 stays at 0, and K counts the others. With one domain the weight stays as it is.

    Args:
      step_size: at least 0, may be traced.
      smoothing: share of the uniform mixture, in [0, 1], may be traced: 1e-4 in the authors' code, 1e-3 in the paper.
      initial_excess: excess of domains that were never drawn, may be traced.

    Returns:
      A transformation over `[K]` weights.

    Raises:
      TypeError: if an argument is not a number or, in `update`, the losses are not floating point or the counts no
        integers.
      ValueError: if an argument is out of range or, in `update`, a signal is not `[K]`.

    References:
      Xie et al., 2023 (arXiv 2305.10429).

    Examples:
      >>> tx = mix_by_doremi(smoothing=0.0)
      >>> weights = jnp.full(2, 0.5)
      >>> excess = jnp.log(jnp.array([1.0, 3.0]))
      >>> mixture, state = tx.update(weights, tx.init(weights), domain_losses=excess, domain_counts=jnp.array([4, 4]))
      >>> [round(p, 4) for p in state.mean_mixture.tolist()]
      [0.25, 0.75]
    """
    check_number("step_size", step_size, 0)
    check_number("smoothing", smoothing, 0, 1)
    check_number("initial_excess", initial_excess)

    def init(weights):
        zeros = jnp.zeros_like(weights)
        return DoremiState(zeros, zeros + jnp.asarray(initial_excess, weights.dtype), zeros, jnp.zeros((), jnp.int32))

    def update(weights, state, params=None, *, domain_losses, domain_counts, **extra_args):
        check_domains(weights, domain_losses=domain_losses, domain_counts=domain_counts)
        losses = domain_losses.astype(weights.dtype)
        excess = jnp.where(observed(weights, losses, domain_counts), losses, state.excess)
        scores = jnp.asarray(step_size, weights.dtype) * excess
        mixture, tilt = exponentiated_step(weights, state.tilt, scores, smoothing)
        count = state.num_updates + 1
        mean = running_mean(state.mean_mixture, count, mixture)
        return mixture * jnp.sum(jnp.maximum(weights, 0)), DoremiState(tilt, excess, mean, count)

    return weight_transformation(init, update)
