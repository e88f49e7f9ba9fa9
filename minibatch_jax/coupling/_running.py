"""Run a coupling on a batch, without forgetting what it carries from batch to batch."""

from typing import Any

import jax
import optax

from minibatch_jax.compose import RecordState
from minibatch_jax.coupling.plans import SolverReport
from minibatch_jax.weights import Weights

_REPORTS = (RecordState, SolverReport)


def run_coupling(
    name: str, coupling: optax.GradientTransformation, weights: jax.Array, cost: jax.Array, state: Any = None
) -> tuple[Weights, Any]:
    """Return the plan of one batch, and the state after it.

    Without a state the coupling starts afresh. This is refused if its plan depends on earlier batches: if its state has
    an array that is not of `record` or a `SolverReport`, such as an average, potentials, a count of updates or a key.

    Args:
      name: what the caller calls the coupling, for the error.
      coupling: any transformation of `[B0, B1]` weights whose only signal is `cost`.
      weights: `[B0, B1]`, incoming weights.
      cost: `[B0, B1]`.
      state: what the last call returned, or `coupling.init(weights)`.

    Raises:
      ValueError: if there is no state and the plan depends on earlier batches.
    """
    if state is None:
        check_keeps_nothing(name, coupling, weights, f"a state: first {name}.init(weights), then the one returned")
        state = coupling.init(weights)
    return optax.with_extra_args_support(coupling).update(weights, state, cost=cost)


def check_keeps_nothing(name: str, coupling: optax.GradientTransformation, weights: jax.Array, wanted: str) -> None:
    """Raise ValueError, with what is wanted instead, if the plan of a coupling depends on earlier batches."""
    states = jax.tree.leaves(jax.eval_shape(coupling.init, weights), is_leaf=lambda part: isinstance(part, _REPORTS))
    kept = sum(not isinstance(state, _REPORTS) for state in states)
    if kept:
        raise ValueError(f"{name} is a coupling that keeps {kept} arrays from batch to batch, wanted {wanted}.")
