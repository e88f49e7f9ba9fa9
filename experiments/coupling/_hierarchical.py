"""The network and the two stages of `hierarchical_flow` and `hierarchical_flow_images`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.engine import Arm, State, init_mlp, mlp
from experiments.shared.step_costs import print_step_costs
from minibatch_jax.coupling import hierarchical_path, second_stage_path
from minibatch_jax.coupling.flows.hierarchical import HierarchicalPath

TIME_FEATURES = 5


class Method(NamedTuple):
    """The sizes of the groups that are coupled at each level, and whether a second stage follows."""

    groups: tuple[int, ...]
    draws: int = 0
    """velocities drawn at each place in a second stage, 0 if there is none"""

    def schedule(self, learning_rate: float, steps: int) -> optax.Schedule:
        """A cosine to 0, or one for each of the two stages, which have half of the steps."""
        if not self.draws:
            return optax.cosine_decay_schedule(learning_rate, steps)
        half = optax.cosine_decay_schedule(learning_rate, steps // 2)
        return optax.join_schedules([half, half], [steps // 2])


def start(method: Method, dimension: int, hidden: tuple[int, ...], key: jax.Array) -> dict[str, Any]:
    """Fields of `State`; its selection state is the trained first stage, if there is one."""
    key, params_key = jax.random.split(key)
    levels = len(method.groups)
    params = init_mlp(params_key, (levels * (dimension + TIME_FEATURES), *hidden, dimension))
    return {"params": params, "selection_state": params if method.draws else (), "keys": key}


def training_path(
    config: Any, method: Method, key: jax.Array, x1: jax.Array, state: State, model_fn: Callable
) -> tuple[HierarchicalPath, Any]:
    """The path of a step, equally many rows in each stage, and the first stage for the next step.

    `model_fn(params, states, times)` is the flow that the first stage trains.
    """
    first_key, second_key = jax.random.split(key)
    path = hierarchical_path(first_key, x1, groups=method.groups)
    if not method.draws:
        return path, state.selection_state
    half = config.steps // 2
    teacher = jax.tree.map(
        lambda new, old: jnp.where(state.step == half, new, old), state.params, state.selection_state
    )

    def second(path):
        few = jax.tree.map(lambda x: x[: len(x1) // method.draws], path)
        model = partial(model_fn, teacher)
        return second_stage_path(second_key, model, few, draws=method.draws, num_steps=config.draw_steps)

    return jax.lax.cond(state.step < half, lambda path: path, second, path), teacher


def predict(params, states: jax.Array, times: jax.Array) -> jax.Array:
    """Output `[B, d]` at states `[B, D, d]` and their times `[B, D]`."""
    angles = times[..., None] * (jnp.pi * jnp.arange(1, 3))[None, None]
    features = jnp.concatenate([states, times[..., None], jnp.sin(angles), jnp.cos(angles)], axis=2)
    return mlp(params, features.reshape(len(states), -1))


def depth_of(params, dimension: int) -> int:
    """The number of levels that a network was made for."""
    return params[0][0].shape[0] // (dimension + TIME_FEATURES)


def splits(evaluations: int, levels: int) -> list[tuple[int, ...]]:
    """Numbers of steps of each level that cost so many evaluations."""
    if levels == 1:
        return [(evaluations,)]
    factors = [n for n in range(1, evaluations + 1) if evaluations % n == 0]
    return [(n, *below) for n in factors for below in splits(evaluations // n, levels - 1)]


def print_stage_costs(config: Any, methods: dict[str, Method], arms: dict[str, Arm], batch: Any, path: Path) -> None:
    """Write what the steps of each arm cost, those of a second stage on a line of their own."""
    half = config.steps // 2
    timed, steps = {}, {}
    for name, arm in arms.items():
        timed[name], steps[name] = arm, config.steps
        if methods[name].draws:
            steps[name] = half
            late = f"{name}: second"
            timed[late], steps[late] = arm._replace(init=_started_at(arm, half + 1)), half
    print_step_costs(timed, batch, steps, path)


def _started_at(arm: Arm, step: int):
    return lambda key: arm.init(key)._replace(step=jnp.int32(step))
