"""Between examples and domains: mean losses of domains from those of examples, weights of examples from a mixture.

A mixture is used in one of two ways. *Sampling* draws each batch from it, and all examples weigh the same.
*Re-weighting* draws batches from other proportions and gives an example the weight `mixture / proportions` of its
domain; its variance grows with the largest of these ratios.

References:
  Xie et al., DoReMi: optimizing data mixtures speeds up language model pretraining, 2023 (arXiv 2305.10429).

Method: DoReMi
Paper: 2305.10429
Experiment: proxy_mixtures, speed mixing
"""

import jax
import jax.numpy as jnp

from minibatch_jax._checks import check_count, check_floating, check_integer, check_shape
from minibatch_jax._vector import class_numbers, nonzero
from minibatch_jax.devices import replicate, shard_like, sum_over
from minibatch_jax.mixing._mixtures import check_mixture
from minibatch_jax.weights import weight_dtype


def losses_by_domain(
    losses: jax.Array,
    domains: jax.Array,
    num_domains: int,
    *,
    weights: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Return the mean loss of each domain and how many examples it is the mean of: signals of the online rules.

    An example counts if its domain is in [0, K), its loss is finite and its weight is positive. A domain without such
    an example has count 0 and loss 0, and the online rules then keep what they knew of it.

    Args:
      losses: `[B]`, floating point, before any re-weighting.
      domains: `[B]` int, domain of each example, -1 for none.
      num_domains: K, static.
      weights: `[B]` floating point, weight of each example in the mean of its domain, such as its number of tokens if a
        loss is a mean over tokens; 0 on padding. All equal by default.
      axis_name: mapped axis of `shard_map` or `pmap` over which the batch is sharded. Sums and counts are added over it
        before they are divided.

    Returns:
      `domain_losses` `[K]`, float32 (float64 if the losses are), and `domain_counts` `[K]` int32, the same on every
      device.

    Raises:
      TypeError: if losses or weights are not floating point, domains are not integers or `num_domains` is not a static
        int.
      ValueError: if shapes do not match, the batch is empty, `num_domains` is below 1 or another axis is bound.

    Examples:
      >>> losses, counts = losses_by_domain(jnp.array([1.0, 3.0, 5.0, jnp.nan]), jnp.array([0, 0, 2, 2]), 3)
      >>> losses.tolist(), counts.tolist()
      ([2.0, 0.0, 5.0], [2, 0, 1])
    """
    check_shape("losses", losses, (None,))
    check_floating("losses", losses)
    check_shape("domains", domains, losses.shape)
    check_integer("domains", domains)
    check_count("num_domains", num_domains)
    dtype = weight_dtype(losses.dtype)
    masses = jnp.ones_like(losses, dtype) if weights is None else weights
    check_shape("weights", masses, losses.shape)
    check_floating("weights", masses)
    losses, domains, masses = replicate((losses.astype(dtype), domains, masses.astype(dtype)))
    numbers = class_numbers(domains, num_domains)
    usable = (numbers < num_domains) & jnp.isfinite(losses) & jnp.isfinite(masses) & (masses > 0)
    masses = jnp.where(usable, masses, 0)
    parts = masses * jnp.where(usable, losses, 0), masses, usable.astype(jnp.int32)
    sums = tuple(jax.ops.segment_sum(part, numbers, num_domains) for part in parts)
    total, mass, counts = sum_over(sums, axis_name)
    return total / nonzero(mass), counts


def domain_to_example_weights(
    weights: jax.Array, proportions: jax.Array, domains: jax.Array, *, axis_name: str | None = None
) -> jax.Array:
    """Return weights of examples that make a batch drawn from some proportions count as one drawn from a mixture.

    An example of domain k weighs `weights[k] / proportions[k]`, divided by the sum over the batch. With the proportions
    that the batch was drawn from, the weighted loss is the ratio of two sums over examples, the form of DoReMi's code.
    With those of the batch itself, `domain_counts / B`, every domain of the batch has exactly its weight, whatever its
    number of examples: the form of DoReMi's paper. To weigh tokens, give each the weight of its example, and 0 to
    padding, and divide by the sum of all.

    Args:
      weights: `[K]` the mixture wanted, of sum 1.
      proportions: `[K]` the mixture that the batch was drawn from, of sum 1. A domain of proportion 0 gets weight 0.
      domains: `[B]` int, domain of each example; those outside [0, K), such as -1 for padding, get weight 0.
      axis_name: mapped axis of `shard_map` or `pmap` over which the batch is sharded; the sum is over all devices.

    Returns:
      `[B]`, float32 (float64 if the mixture is), of sum 1, or all 0 if no example has a positive weight.

    Raises:
      TypeError: if weights or proportions are not floating point or domains are not integers.
      ValueError: if shapes do not match, a concrete mixture has a negative or non-finite entry or does not sum to 1, or
        another axis is bound.

    References:
      Xie et al., DoReMi, 2023 (arXiv 2305.10429).

    Examples:
      >>> domain_to_example_weights(jnp.array([0.5, 0.5]), jnp.array([0.75, 0.25]), jnp.array([0, 0, 0, 1])).tolist()
      [0.1666666716337204, 0.1666666716337204, 0.1666666716337204, 0.5]
    """
    check_mixture("weights", weights)
    check_mixture("proportions", proportions, weights.shape[0])
    check_shape("domains", domains, (None,))
    check_integer("domains", domains)
    dtype = weight_dtype(weights.dtype)
    ratios = weights.astype(dtype) / nonzero(proportions.astype(dtype))
    usable = (weights > 0) & (proportions > 0) & jnp.isfinite(ratios)
    ratios = jnp.append(jnp.where(usable, ratios, 0), jnp.zeros(1, dtype))
    chosen = ratios[class_numbers(replicate(domains), weights.shape[0])]
    return shard_like(domains, chosen / nonzero(sum_over(jnp.sum(chosen), axis_name)))
