"""The mixture of least predicted loss on the simplex with caps, for any law that is a differentiable function.

A cap keeps a small domain from being repeated too often: `tokens of the domain * most epochs / tokens trained on`.

References:
  Ye et al., Data mixing laws: optimizing data mixtures by predicting language modeling performance, ICLR 2025
  (arXiv 2403.16952).

Method: data mixing laws
Paper: 2403.16952
Experiment: mixture_laws
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from minibatch_jax._checks import check_count, check_floating, check_number, check_shape
from minibatch_jax._loops import bind, fori_loop, given, while_loop
from minibatch_jax._vector import nonzero
from minibatch_jax.mixing.mixing_laws import predict_losses
from minibatch_jax.weights import weight_dtype

BISECTIONS = 60


class BestMixture(NamedTuple):
    """Result of `best_mixture`.

    Attributes:
      mixture: `[K]`, sums to 1, within the caps.
      loss: `[]`, sum of predicted losses times targets.
      gap: `[]`, for a convex law no mixture within the caps has a loss lower than by this (the Frank-Wolfe gap).
      residual: `[]`, largest change of a proportion by a projected gradient step of size 1: 0 where the conditions of
        Karush, Kuhn and Tucker hold.
      converged: `[]` bool, whether the gap is within the tolerance; False too where the caps cannot be met, and where
        the law has no finite slope: the search then ends at the last mixture where it had one.
      iterations: `[]` int32.
    """

    mixture: jax.Array
    loss: jax.Array
    gap: jax.Array
    residual: jax.Array
    converged: jax.Array
    iterations: jax.Array


class _Search(NamedTuple):
    mixture: jax.Array
    ahead: jax.Array
    momentum: jax.Array
    curvature: jax.Array
    gap: jax.Array
    iterations: jax.Array


def best_mixture(
    law: Any,
    targets: jax.Array,
    caps: jax.Array,
    *,
    predict: Callable[[Any, jax.Array], jax.Array] = predict_losses,
    tolerance: float | jax.Array = 1e-5,
    max_iterations: int = 2000,
) -> BestMixture:
    """Minimize `sum targets * predict(law, mixture)` over mixtures within the caps, by accelerated projected gradients.

    A convex law, as `fit_mixing_law` gives for targets of at least 0, has one minimum. For others, such as a quadratic
    regression, the result is a point that no small move improves.

    Args:
      law: a pytree, what `predict` takes first.
      targets: `[V]`, or `[]` if `predict` gives a scalar, floating point: weight of each predicted loss.
      caps: `[K]`, floating point, largest proportion of each domain; 1 for no cap. Negative or NaN caps count as 0.
      predict: `predict(law, mixture [K])` gives losses `[V]` or `[]`, differentiable in the mixture.
      tolerance: the search ends where `gap` is at most this, positive, may be traced.
      max_iterations: gradients at most, static.

    Returns:
      The mixture, its predicted loss, and how far from the optimum they may be.

    Raises:
      TypeError: if targets or caps are not floating point.
      ValueError: if a shape does not fit, a number is out of range, or the caps are known and sum to less than 1.

    References:
      Ye et al., Data mixing laws, ICLR 2025 (arXiv 2403.16952).

    Examples:
      >>> def predict(law, mixture):
      ...     return jnp.sum(law * mixture**2)
      >>> found = best_mixture(jnp.array([1.0, 1.0, 4.0]), jnp.ones(()), jnp.array([0.25, 1.0, 1.0]), predict=predict)
      >>> print(*(f"{share:.3f}" for share in found.mixture.tolist()), found.converged)
      0.250 0.600 0.150 True
    """
    caps = _caps(caps, "caps")
    check_floating("targets", targets)
    check_number("tolerance", tolerance, 0, open_low=True)
    check_count("max_iterations", max_iterations)
    targets = targets.astype(caps.dtype)
    predicted = jax.eval_shape(predict, law, jax.ShapeDtypeStruct(caps.shape, caps.dtype))
    check_shape("targets", targets, predicted.shape)
    start = project_capped_simplex(jnp.full_like(caps, 1 / caps.shape[0]), caps)
    one, zero = jnp.ones((), caps.dtype), jnp.zeros((), jnp.int32)
    tolerance = jnp.asarray(tolerance, caps.dtype)
    state = _Search(start, start, one, one, jnp.full_like(one, jnp.inf), zero)
    goes_on = bind(_goes_on, tolerance, max_iterations=max_iterations)
    state = while_loop(goes_on, bind(given(_step, predict), law, targets, caps), state)
    loss, gradient = jax.value_and_grad(_weighted, argnums=3)(predict, law, targets, state.mixture)
    residual = jnp.max(jnp.abs(state.mixture - project_capped_simplex(state.mixture - gradient, caps)))
    converged = (state.gap <= tolerance) & (jnp.sum(caps) >= 1 - 1e-6)
    return BestMixture(state.mixture, loss, state.gap, residual, converged, state.iterations)


def project_capped_simplex(values: jax.Array, caps: jax.Array) -> jax.Array:
    """Return the nearest mixture within the caps: `clip(values - shift, 0, caps)`, the shift found by bisection.

    Args:
      values: `[..., K]`, floating point. One that is not finite gets the proportion 0.
      caps: `[K]`, floating point, largest proportion of each domain; negative or NaN caps count as 0.

    Returns:
      `[..., K]`, rows that sum to 1; under `jit`, where the caps sum to less than 1, the caps divided by their sum.

    Raises:
      TypeError: if an input is not floating point.
      ValueError: if shapes do not match, or the caps are known and sum to less than 1.

    Examples:
      >>> project_capped_simplex(jnp.array([0.9, 0.5, 0.0]), jnp.array([0.5, 1.0, 1.0])).round(3).tolist()
      [0.5, 0.5, 0.0]
    """
    caps = _caps(caps, "caps")
    check_floating("values", values)
    check_shape("values", values, (*values.shape[:-1], caps.shape[0]))
    values = values.astype(weight_dtype(values.dtype))
    caps = jnp.broadcast_to(caps.astype(values.dtype), values.shape)
    finite = jnp.isfinite(values)
    values, caps = jnp.where(finite, values, 0), jnp.where(finite, caps, 0)
    low = jnp.min(values - caps, axis=-1, keepdims=True)
    high = jnp.max(values, axis=-1, keepdims=True)
    low, high = fori_loop(0, BISECTIONS, bind(_bisect, values, caps), (low, high))
    shift = (low + high) / 2
    free = (values > shift) & (values - shift < caps)
    full = jnp.sum(jnp.where(values - shift >= caps, caps, 0), axis=-1, keepdims=True)
    number = jnp.sum(free, axis=-1, keepdims=True, dtype=jnp.int32).astype(values.dtype)
    exact = (jnp.sum(jnp.where(free, values, 0), axis=-1, keepdims=True) + full - 1) / nonzero(number)
    found = jnp.clip(values - jnp.where(number > 0, exact, shift), 0, caps)
    return found / nonzero(jnp.sum(found, axis=-1, keepdims=True))


def _bisect(values, caps, _, bounds):
    low, high = bounds
    middle = (low + high) / 2
    above = jnp.sum(jnp.clip(values - middle, 0, caps), axis=-1, keepdims=True) > 1
    return jnp.where(above, middle, low), jnp.where(above, high, middle)


def _caps(caps: jax.Array, name: str) -> jax.Array:
    """Return caps in [0, 1] in the dtype to compute in; raise where it is known that they cannot be met."""
    check_shape(name, caps, (None,))
    check_floating(name, caps)
    caps = jnp.where(caps > 0, jnp.minimum(caps, 1), 0).astype(weight_dtype(caps.dtype))
    if not isinstance(caps, Tracer) and float(jnp.sum(caps)) < 1 - 1e-6:
        raise ValueError(
            f"{name} sums to {float(jnp.sum(caps)):.4g}, wanted at least 1: no mixture is within these caps."
        )
    return caps


def _weighted(predict, law, targets, mixture):
    return jnp.sum(targets * predict(law, mixture).astype(targets.dtype))


def _gap(gradient, caps, mixture):
    """Return `max gradient . (mixture - other)` over the mixtures within the caps: the best fills caps in order."""
    order = jnp.argsort(gradient)
    ends = jnp.cumsum(caps[order])
    filled = jnp.clip(1 - (ends - caps[order]), 0, caps[order])
    return jnp.sum(gradient * mixture) - jnp.sum(gradient[order] * filled)


def _step(predict, law, targets, caps, state):
    gradient_at = jax.grad(_weighted, argnums=3)
    gradient = gradient_at(predict, law, targets, state.ahead)
    mixture = project_capped_simplex(state.ahead - gradient / state.curvature, caps)
    moved = mixture - state.ahead
    after = gradient_at(predict, law, targets, mixture)
    measured = jnp.sum((after - gradient) * moved) / nonzero(jnp.sum(moved**2))
    taken = ~(measured > state.curvature) & jnp.all(jnp.isfinite(after))
    turned = jnp.sum((state.ahead - mixture) * (mixture - state.mixture)) > 0
    momentum = jnp.where(turned, 1, (1 + jnp.sqrt(1 + 4 * state.momentum**2)) / 2)
    factor = jnp.where(turned, 0, (state.momentum - 1) / momentum)
    ahead = project_capped_simplex(mixture + factor * (mixture - state.mixture), caps)
    gap = _gap(after, caps, mixture)
    new = _Search(mixture, ahead, momentum, state.curvature * 0.9, gap, state.iterations)
    new = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, state._replace(curvature=state.curvature * 2))
    return new._replace(iterations=state.iterations + 1)


def _goes_on(tolerance, state, *, max_iterations):
    return ~(state.gap <= tolerance) & (state.iterations < max_iterations) & (state.curvature < jnp.inf)
