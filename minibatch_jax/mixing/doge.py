"""DoGE: raise the weight of domains whose gradient points where the target's does.

A step along the gradient of a domain lowers the loss of the target by the inner product of the two gradients. A small
proxy model is trained with the loss `sum_k p_k loss_k`, and the mean of its mixtures is what a larger model draws from.

References:
  Fan et al., DoGE: domain reweighting with generalization estimation, ICML 2024 (arXiv 2310.15393).

Method: DoGE
Paper: 2310.15393
Experiment: proxy_mixtures, speed mixing
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minibatch_jax._checks import check_floating, check_number, check_shape
from minibatch_jax._loops import bind, given, map_rows
from minibatch_jax.mixing._mixtures import check_domains, exponentiated_step, running_mean
from minibatch_jax.scores._rows import sum_of_squares
from minibatch_jax.scores.directions import alignment
from minibatch_jax.weights import weight_transformation

TINY = 1e-6


class DogeState(NamedTuple):
    """State of `mix_by_doge`.

    Attributes:
      tilt: `[K]`, logarithm of the last mixture over the incoming one.
      mean_mixture: `[K]`, mean of the mixtures of all updates, which is what the method returns; 0 before the first.
      num_updates: `[]` int32, updates so far.
    """

    tilt: jax.Array
    mean_mixture: jax.Array
    num_updates: jax.Array


def domain_alignments(
    domain_losses_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    batch: Any,
    direction: Any = None,
    *,
    normalize: bool = True,
) -> jax.Array:
    """Return how far the gradient of each domain's loss points along that of the target: the signal of `mix_by_doge`.

    With a `direction`, the gradient of the target's loss, this is one forward-mode pass of about two evaluations, and
    no gradient of a domain is formed. Without one, the targets are the domains themselves: that of domain k is the sum
    over all *other* domains, for which the gradient of each domain is formed, one at a time.

    Args:
      domain_losses_fn: `domain_losses_fn(params, batch) -> losses [K]`, such as the first result of `losses_by_domain`.
      params: pytree of arrays, floating point.
      batch: pytree of arrays, which goes to `domain_losses_fn`.
      direction: pytree like `params`, or None.
      normalize: whether to divide by a norm, plus 1e-6: that of the direction, or, without one, the mean norm of the
        gradients of the domains, as the authors' code does. The paper has no division.

    Returns:
      `[K]`, float32 (float64 if the losses are). A domain without examples has loss 0 and alignment 0.

    Raises:
      TypeError: if the losses are not floating point, or the direction has another dtype than the parameters.
      ValueError: if the losses are not `[K]`, or the direction has another structure or shape than the parameters.

    References:
      Fan et al., 2024 (arXiv 2310.15393).

    Examples:
      >>> losses_fn = lambda w, batch: batch @ w
      >>> domain_alignments(losses_fn, jnp.zeros(2), jnp.array([[3.0, 4.0], [0.0, 1.0]]), normalize=False).tolist()
      [4.0, 4.0]
    """
    if direction is not None:
        slopes = alignment(domain_losses_fn, params, batch, direction)
        return slopes / (jnp.sqrt(sum_of_squares(direction).astype(slopes.dtype)) + TINY) if normalize else slopes
    shape = jax.eval_shape(domain_losses_fn, params, batch)
    check_shape("losses", shape, (None,))
    check_floating("losses", shape)
    total = jax.grad(lambda p: jnp.sum(domain_losses_fn(p, batch)))(params)
    slopes = alignment(domain_losses_fn, params, batch, total)
    one = bind(given(_square_of_gradient, domain_losses_fn), params, batch)
    squares = map_rows(one, jnp.arange(shape.shape[0])).astype(slopes.dtype)
    others = slopes - squares
    return others / (jnp.mean(jnp.sqrt(squares)) + TINY) if normalize else others


def _square_of_gradient(domain_losses_fn, params, batch, domain):
    return sum_of_squares(jax.grad(lambda p: domain_losses_fn(p, batch)[domain])(params))


def mix_by_doge(
    learning_rate: float | jax.Array,
    *,
    mu: float | jax.Array = 0.05,
    bounds: tuple[float, float] | None = (0.0, 5.0),
    smoothing: float | jax.Array = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Raise the weight of domains that are aligned with the target (DoGE). Signal: `domain_alignments` [K].

    Each update does `p <- p exp(learning_rate x a / mu)` with the alignment a of each domain clipped to `bounds`, and
    normalizes. It starts from the incoming mixture. A domain whose alignment is not finite counts with 0, and so does
    one without examples. With the bounds of the authors' code no domain is pushed down, except by normalizing; the
    paper has none. The result is `state.mean_mixture`.

    A domain that comes with weight 0 stays at 0. With one domain the weight stays as it is.

    Args:
      learning_rate: that of the proxy model at this step, at least 0; `optax.inject_hyperparams` gives it a schedule.
      mu: weight of the Bregman divergence, positive, may be traced.
      bounds: smallest and largest alignment, in units of the norm of a gradient, or None.
      smoothing: share of the uniform mixture, in [0, 1], may be traced.

    Returns:
      A transformation over `[K]` weights.

    Raises:
      TypeError: if an argument is not a number or, in `update`, the alignments are not floating point.
      ValueError: if an argument is out of range or, in `update`, the alignments are not `[K]`.

    References:
      Fan et al., 2024 (arXiv 2310.15393).

    Examples:
      >>> tx = mix_by_doge(0.05)
      >>> weights = jnp.full(2, 0.5)
      >>> alignments = jnp.array([-1.0, jnp.log(3.0)])
      >>> mixture, state = tx.update(weights, tx.init(weights), domain_alignments=alignments)
      >>> [round(p, 4) for p in state.mean_mixture.tolist()]
      [0.25, 0.75]
    """
    check_number("learning_rate", learning_rate, 0)
    check_number("mu", mu, 0, open_low=True)
    check_number("smoothing", smoothing, 0, 1)
    if bounds is not None and not bounds[0] <= bounds[1]:
        raise ValueError(f"bounds is {bounds}, wanted the smaller number first.")

    def init(weights):
        zeros = jnp.zeros_like(weights)
        return DogeState(zeros, zeros, jnp.zeros((), jnp.int32))

    def update(weights, state, params=None, *, domain_alignments, **extra_args):
        check_domains(weights, domain_alignments=domain_alignments)
        dtype = weights.dtype
        found = domain_alignments.astype(dtype)
        clipped = found if bounds is None else jnp.clip(found, *bounds)
        step = jnp.asarray(learning_rate, dtype) / jnp.asarray(mu, dtype)
        scores = step * jnp.where(jnp.isfinite(found), clipped, 0)
        mixture, tilt = exponentiated_step(weights, state.tilt, scores, smoothing)
        count = state.num_updates + 1
        mean = running_mean(state.mean_mixture, count, mixture)
        return mixture * jnp.sum(jnp.maximum(weights, 0)), DogeState(tilt, mean, count)

    return weight_transformation(init, update)
