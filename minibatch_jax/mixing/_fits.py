"""Least Huber loss of a parametric curve from many starts, by Levenberg-Marquardt steps, and usable rows of mixtures.

A law of losses has few parameters and many starts. Each step solves the normal equations of the residuals for two
quadratics, one above the Huber loss and one close to it near the minimum, and takes the better result if it lowers the
loss. On the published runs of RegMix this ends where BFGS ends; with the first quadratic alone it did not always.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from minibatch_jax._checks import check_floating, check_shape
from minibatch_jax._loops import bind, while_loop
from minibatch_jax._vector import nonzero
from minibatch_jax.geometry import product
from minibatch_jax.weights import weight_dtype

ROUNDING = 0.01
LONGEST_STEP = 2.0
LARGEST_DAMPING = 1e8


class Fit(NamedTuple):
    """Parameters `[P]` of the best start, its objective `[]`, and whether it is at a minimum `[]`."""

    params: jax.Array
    loss: jax.Array
    converged: jax.Array


class _State(NamedTuple):
    params: jax.Array
    loss: jax.Array
    damping: jax.Array
    small: jax.Array
    steps: jax.Array


def huber_fit(
    model: Callable[..., jax.Array],
    starts: jax.Array,
    inputs: Any,
    targets: jax.Array,
    weights: jax.Array,
    delta: jax.Array,
    penalty: jax.Array,
    max_iterations: int,
) -> Fit:
    """Minimize `sum weights * huber(model(params, *inputs) - targets) + params @ penalty @ params / 2` from each start.

    Args:
      model: a function of a module, `model(params [P], *inputs)` gives `[M]`.
      starts: `[S, P]`.
      inputs: tuple of arrays.
      targets: `[M]`, about as far spread as 1.
      weights: `[M]`, 0 for rows that do not count, whose targets must be finite.
      delta: `[]`, where the loss goes from a parabola to a line.
      penalty: `[P, P]`.
      max_iterations: static.
    """
    data = inputs, targets, weights, delta, penalty

    def one(start):
        loss = _objective(*data, start, model=model)
        zero = jnp.zeros((), jnp.int32)
        state = _State(start, loss, jnp.full_like(loss, 1e-2), zero, zero)
        goes_on = bind(_goes_on, max_iterations=max_iterations)
        state = while_loop(goes_on, bind(_step, *data, model=model), state)
        return state, _is_minimum(*data, state.params, model=model) & _has_stopped(state)

    states, converged = jax.vmap(one)(starts)
    best = jnp.argmin(jnp.where(jnp.isfinite(states.loss), states.loss, jnp.inf))
    return Fit(states.params[best], states.loss[best], converged[best])


def usable_mixtures(mixtures: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mixtures `[M, K]` divided by their sums, and `[M]` bool: which are proportions that sum to 1 within 0.01.

    Those that do not become uniform. Raise ValueError where it is known that none does.
    """
    sums = jnp.sum(mixtures, axis=1)
    usable = jnp.all(mixtures >= 0, axis=1) & (jnp.abs(sums - 1) <= ROUNDING)
    if not isinstance(usable, Tracer) and not bool(jnp.any(usable)):
        raise ValueError(f"mixtures has rows that sum to {float(sums[0]):.4g}, wanted proportions that sum to 1.")
    uniform = jnp.full_like(mixtures, 1 / mixtures.shape[1])
    return jnp.where(usable[:, None], mixtures / nonzero(sums)[:, None], uniform), usable


def check_runs(mixtures: jax.Array, losses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Raise unless mixtures `[M, K]`, K > 1, fit losses `[M]` or `[M, V]`; return both in the dtype to compute in."""
    check_shape("mixtures", mixtures, (None, None))
    check_floating("mixtures", mixtures)
    if mixtures.shape[1] < 2:
        raise ValueError("mixtures has 1 domain, wanted at least 2: a mixture of one domain is no choice.")
    check_shape("losses", losses, mixtures.shape[:1] if jnp.ndim(losses) == 1 else (mixtures.shape[0], None))
    check_floating("losses", losses)
    dtype = weight_dtype(jnp.result_type(losses))
    return mixtures.astype(dtype), losses.astype(dtype)


def spread(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Return the weighted standard deviation of `[M]`, or 1 where that is 0."""
    total = nonzero(jnp.sum(weights))
    mean = jnp.sum(weights * values) / total
    deviation = jnp.sqrt(jnp.sum(weights * (values - mean) ** 2) / total)
    return jnp.where(deviation > 8 * jnp.finfo(values.dtype).eps * jnp.abs(mean), deviation, 1)


def _huber(residuals, delta):
    clipped = jnp.minimum(jnp.abs(residuals), delta)
    return clipped * (jnp.abs(residuals) - clipped / 2)


def _objective(inputs, targets, weights, delta, penalty, params, *, model):
    losses = weights * _huber(model(params, *inputs) - targets, delta)
    return jnp.sum(losses) + product(product(params, penalty), params) / 2


def _normal_equations(inputs, targets, weights, delta, penalty, params, *, model):
    """Gradient `[P]`, and two Hessians `[2, P, P]`: of the quadratic above the loss, and of the loss near its minimum.

    The second one counts only residuals within delta fully, and a tenth of the others.
    """
    residuals = model(params, *inputs) - targets
    size = jnp.abs(residuals)
    above = weights * jnp.minimum(1, delta / nonzero(size))
    near = jnp.where(size <= delta, above, above / 10)
    jacobian = jax.jacfwd(model)(params, *inputs)
    hessians = jnp.stack([product((jacobian * w[:, None]).T, jacobian) + penalty for w in (above, near)])
    return product((jacobian * above[:, None]).T, residuals) + product(penalty, params), hessians


def _step(inputs, targets, weights, delta, penalty, state, *, model):
    """Take the better of the steps by the two Hessians, if it lowers the loss."""
    data = inputs, targets, weights, delta, penalty
    gradient, hessians = _normal_equations(*data, state.params, model=model)

    def move(hessian):
        scale = jax.lax.rsqrt(jnp.maximum(jnp.diag(hessian), 1e-30))
        system = hessian * scale[:, None] * scale[None] + state.damping * jnp.eye(len(scale), dtype=scale.dtype)
        factor = jax.scipy.linalg.cho_factor(system)
        step = -scale * jax.scipy.linalg.cho_solve(factor, scale * gradient)
        params = state.params + jnp.clip(step, -LONGEST_STEP, LONGEST_STEP)
        return params, _objective(*data, params, model=model)

    moved, losses = jax.vmap(move)(hessians)
    best = jnp.argmin(jnp.where(jnp.isfinite(losses), losses, jnp.inf))
    params, loss = moved[best], losses[best]
    better = loss < state.loss
    eps = jnp.finfo(loss.dtype).eps
    is_small = state.loss - loss <= jnp.maximum(8 * eps, 1e-9) * state.loss
    return _State(
        jnp.where(better, params, state.params),
        jnp.where(better, loss, state.loss),
        jnp.where(better, jnp.maximum(state.damping / 5, 16 * eps), state.damping * 4),
        jnp.where(better, jnp.where(is_small, state.small + 1, 0), state.small),
        state.steps + 1,
    )


def _has_stopped(state):
    return (state.small >= 2) | (state.damping > LARGEST_DAMPING)


def _goes_on(state, *, max_iterations):
    return ~_has_stopped(state) & (state.steps < max_iterations)


def _is_minimum(inputs, targets, weights, delta, penalty, params, *, model):
    """Whether each column of the Jacobian is orthogonal to the residuals, or hardly changes the loss."""
    data = inputs, targets, weights, delta, penalty
    loss = _objective(*data, params, model=model)
    gradient, hessians = _normal_equations(*data, params, model=model)
    orthogonal = jnp.abs(gradient) <= 1e-3 * jnp.sqrt(2 * loss * jnp.maximum(jnp.diag(hessians[0]), 0))
    without_effect = jnp.abs(gradient) <= 1e-4 * loss
    rounding = 32 * jnp.finfo(loss.dtype).eps * jnp.max(jnp.abs(targets))
    exact = loss <= jnp.sum(weights) * rounding**2
    return jnp.isfinite(loss) & (exact | jnp.all(orthogonal | without_effect))
