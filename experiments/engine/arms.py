"""Training by gradients, written once: a step, a fit, and an arm for `run`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.engine.loops import Arm, State
from minibatch_jax import value_and_grad


def descend(
    optimizer: optax.GradientTransformation, grads: Any, params: Any, opt_state: Any
) -> tuple[Any, optax.OptState]:
    """Parameters and state of the optimizer after one update."""
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def weighted_gradient(losses: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any, jax.Array], tuple[Any, Any]]:
    """Value and gradient of losses whose weights are known before, from pairs or rows that were drawn.

    Args:
      losses: `losses(params, batch)` gives `[B]`.

    Returns:
      `fn(params, batch, weights)`, which gives `(value, gradient)` of `sum(weights * losses)`.
    """
    given = value_and_grad(losses, optax.with_extra_args_support(optax.identity()))

    def gradient(params, batch, weights):
        (value, _), grads, _ = given(params, batch, optax.EmptyState(), weights=weights)
        return value, grads

    return gradient


def without_losses(params: Any, batch: Any) -> jax.Array:
    """A `score_fn` for selections that look at no loss: zeros, in place of a forward pass over all rows."""
    del params
    return jnp.zeros(len(jax.tree.leaves(batch)[0]))


def minimize(
    optimizer: optax.GradientTransformation, gradient: Callable[[Any, Any], Any], params: Any, inputs: Any
) -> Any:
    """Parameters after one update for each row of `inputs`, with `gradient(params, row)`; one scan, to be jitted."""

    def step(carry, row):
        params, opt_state = carry
        return descend(optimizer, gradient(params, row), params, opt_state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), inputs)[0][0]


def gradient_arm(
    optimizer: optax.GradientTransformation,
    start: Callable[[jax.Array], dict[str, Any]],
    gradient: Callable[[State, dict[str, jax.Array]], tuple[Any, dict[str, Any], dict[str, Any]]],
    split: str = "train",
) -> Arm:
    """An arm whose steps are updates of an optimizer.

    Args:
      optimizer: of the parameters.
      start: `start(key)` gives `params` and, where they are used, `selection_state` and `keys`: the fields of `State`.
      gradient: `gradient(state, batch)` gives the gradient for `state.params`, the other fields of the state that
        change, and the metrics of the step.
      split: where the batches come from, as in `Arm`.
    """

    def init(key):
        fields = start(key)
        return State(opt_state=optimizer.init(fields["params"]), **fields)

    def step(state, batch):
        grads, changed, metrics = gradient(state, batch)
        params, opt_state = descend(optimizer, grads, state.params, state.opt_state)
        return state._replace(params=params, opt_state=opt_state, **changed), metrics

    return Arm(init, step, split)
