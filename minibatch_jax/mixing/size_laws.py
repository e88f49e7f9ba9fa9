"""How a loss falls with steps or with model size, so that small and short runs stand for the run that is planned.

The nested use of a mixing law: for each mixture fit the loss over steps, then over sizes, and fit the mixing law to
the losses at the planned steps and size.

References:
  Ye et al., Data mixing laws: optimizing data mixtures by predicting language modeling performance, ICLR 2025
  (arXiv 2403.16952).

Method: data mixing laws
Paper: 2403.16952
Experiment: mixture_laws
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from minibatch_jax._checks import as_key, check_count, check_floating, check_number, check_shape
from minibatch_jax._vector import num_different
from minibatch_jax.mixing._fits import huber_fit, spread
from minibatch_jax.weights import weight_dtype


class SizeLaw(NamedTuple):
    """Laws `E + A * (size / reference)^-exponent` of C curves, such as one for each mixture.

    Attributes:
      limits: `[C]`, E.
      scales: `[C]`, A, what the reference size lacks.
      exponent: `[]`, of all curves.
      reference: `[]`, geometric mean of the sizes.
      loss: `[]`, sum of Huber losses at the fit.
      converged: `[]` bool, whether the fit is at a minimum and each curve had two different sizes, all together one
        more.
    """

    limits: jax.Array
    scales: jax.Array
    exponent: jax.Array
    reference: jax.Array
    loss: jax.Array
    converged: jax.Array


def fit_size_law(
    sizes: jax.Array,
    losses: jax.Array,
    *,
    key: jax.Array | int,
    num_starts: int = 16,
    delta: float | jax.Array = 0.01,
    max_iterations: int = 200,
) -> SizeLaw:
    """Fit `E + A * size^-exponent` to curves that share the exponent; fit one curve alone for an exponent of its own.

    Args:
      sizes: `[N]`, floating point, positive: steps, tokens or parameters.
      losses: `[N, C]`, floating point, positive; a loss that is not finite or at a size that is not positive has no
        weight.
      key: typed PRNG key or int seed, of the starts.
      num_starts: static.
      delta: Huber's, in units of the loss, positive, may be traced.
      max_iterations: of each start, static.

    Returns:
      The laws, float32 (float64 if the losses are).

    Raises:
      TypeError: if an input is not floating point or a count is not a static int.
      ValueError: if shapes do not match, a number is out of range, or there are fewer losses than the 2 C + 1
        parameters.

    References:
      Ye et al., ICLR 2025 (arXiv 2403.16952).

    Examples:
      >>> sizes = jnp.array([1.0, 4.0, 16.0, 64.0])
      >>> law = fit_size_law(sizes, 2 + jnp.stack([sizes**-0.5, 3 * sizes**-0.5], axis=1), key=0, num_starts=4)
      >>> print(f"{law.exponent:.3f}", *(f"{loss:.3f}" for loss in predict_at_size(law, 256.0).tolist()))
      0.500 2.062 2.188
    """
    check_shape("sizes", sizes, (None,))
    check_floating("sizes", sizes)
    check_shape("losses", losses, (sizes.shape[0], None))
    check_floating("losses", losses)
    check_count("num_starts", num_starts)
    check_count("max_iterations", max_iterations)
    check_number("delta", delta, 0, open_low=True)
    curves = losses.shape[1]
    if losses.size < 2 * curves + 1:
        raise ValueError(
            f"losses has {losses.size} numbers, wanted at least {2 * curves + 1}, the parameters of the law."
        )
    dtype = weight_dtype(jnp.result_type(losses))
    known = (sizes > 0) & jnp.isfinite(sizes)
    logs = jnp.log(jnp.where(known, sizes, 1).astype(dtype))
    middle = jnp.sum(jnp.where(known, logs, 0)) / jnp.maximum(jnp.sum(known.astype(dtype)), 1)
    counts = known[:, None] & jnp.isfinite(losses) & (losses > 0)
    weights = counts.astype(dtype)
    values = jnp.where(counts, losses, 1).astype(dtype)
    unit = spread(values.reshape(-1), weights.reshape(-1))
    targets, delta = values / unit, jnp.asarray(delta, dtype) / unit
    starts = _starts(targets, weights, as_key(key), num_starts)
    penalty = jnp.zeros((starts.shape[1], starts.shape[1]), dtype)
    inputs = (jnp.where(known, logs - middle, 0),)
    found = huber_fit(_law, starts, inputs, targets.reshape(-1), weights.reshape(-1), delta, penalty, max_iterations)
    limits, scales = jnp.exp(found.params[:curves]) * unit, jnp.exp(found.params[curves:-1]) * unit
    of_curve = jax.vmap(num_different, in_axes=(None, 1))(logs[:, None], counts)
    enough = jnp.all(of_curve >= 2) & (jnp.sum(of_curve) > 2 * curves)
    return SizeLaw(
        limits, scales, jnp.exp(found.params[-1]), jnp.exp(middle), found.loss * unit**2, found.converged & enough
    )


def predict_at_size(law: SizeLaw, size: jax.Array | float) -> jax.Array:
    """Return the loss of each curve at a size.

    Args:
      law: of C curves.
      size: `[]`, positive.

    Returns:
      `[C]`.

    Examples:
      >>> law = SizeLaw(jnp.array([2.0]), jnp.ones(1), jnp.asarray(0.5), jnp.asarray(1.0), jnp.zeros(()), True)
      >>> predict_at_size(law, 4.0).tolist()
      [2.5]
    """
    return law.limits + law.scales * (jnp.asarray(size, law.limits.dtype) / law.reference) ** -law.exponent


def _law(params, logs):
    curves = (params.shape[0] - 1) // 2
    falls = params[None, curves:-1] - jnp.exp(params[-1]) * logs[:, None]
    return (jnp.exp(params[None, :curves]) + jnp.exp(falls)).reshape(-1)


def _starts(targets, weights, key, num_starts):
    """`[S, 2 C + 1]`: limits at a fraction of the least loss of each curve, the exponent between .03 and 2."""
    total = jnp.maximum(jnp.sum(weights, axis=0), 1)
    means = jnp.sum(weights * targets, axis=0) / total
    least = jnp.min(jnp.where(weights > 0, targets, jnp.inf), axis=0)
    least = jnp.where(jnp.isfinite(least), least, 1)
    draws = jax.random.uniform(key, (2, num_starts, 1), targets.dtype)
    limits = (0.02 + 0.96 * draws[0]) * least[None]
    scales = jnp.maximum(means[None] - limits, 0.02 * least[None])
    low, high = jnp.log(jnp.asarray((0.03, 2.0), targets.dtype))
    return jnp.concatenate([jnp.log(limits), jnp.log(scales), low + (high - low) * draws[1]], axis=1)
