"""A tiny experiment whose data iterator can kill its own process or raise at a given step.

`python -m tests.experiments.tiny OUT [KILL_AT]` runs it in a process of its own.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.datasets import batches
from experiments.engine import Arm, State, folders, run
from minibatch_jax import normalize, value_and_grad
from minibatch_jax.selection import keep_by_adaptive_k


@dataclass(frozen=True)
class Config:
    out: str
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 40
    batch_size: int = 8
    evaluate_every: int = 8
    checkpoint_every: int = 12
    learning_rate: float = 0.1
    width: int = 8


class Interrupted:
    """Batches that call `action` instead of giving the batch number `at`, counted over all runs of this process."""

    given = 0

    def __init__(self, iterator, at: int | None, action: Callable[[], None]):
        self._iterator, self._at, self._action = iterator, at, action
        self.get_state, self.set_state = iterator.get_state, iterator.set_state

    def __next__(self):
        if Interrupted.given == self._at:
            self._action()
        Interrupted.given += 1
        return next(self._iterator)


class Stop(Exception):
    """What interrupts a run inside the test process."""


def stop():
    raise Stop


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def losses(params, batch):
    return (batch["x"] @ params - batch["y"]) ** 2


@jax.jit
def evaluate(state, data):
    return {"test_loss": jnp.mean(losses(state.params, data["test"]))}


@functools.cache
def arm(selected: bool, batch_size: int, width: int, learning_rate: float) -> Arm:
    optimizer = optax.adam(learning_rate)
    selection = optax.chain(keep_by_adaptive_k("mean"), normalize()) if selected else normalize()
    gradient = value_and_grad(losses, selection)

    def init(key):
        params = jax.random.normal(key, (width,))
        return State(params, optimizer.init(params), selection.init(jnp.zeros(batch_size)), jax.random.fold_in(key, 1))

    def step(state, batch):
        (_, aux), grads, selection_state = gradient(state.params, batch, state.selection_state)
        noise, keys = jax.random.split(state.keys)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates) + 0.01 * jax.random.normal(noise, grads.shape)
        kept = aux.weights > 0
        metrics = {"kept": jnp.mean(kept), "loss_of_kept": (jnp.sum(kept * aux.items), jnp.sum(kept))}
        return State(params, opt_state, selection_state, keys, state.step), metrics

    return Arm(init, step)


def main(
    config: Config,
    interrupt_at: int | None = None,
    action: Callable[[], None] = stop,
    steps_per_call: int = 1,
    both_arms: bool = False,
    **more,
):
    Interrupted.given = 0

    def data(seed):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(64, config.width)).astype(np.float32)
        y = (x @ rng.normal(size=config.width) + (rng.random(64) < 0.3) * 5).astype(np.float32)
        return {"train": {"x": x[:50], "y": y[:50]}, "test": {"x": x[50:], "y": y[50:]}}

    def interruptible(length, batch_size, seed):
        return Interrupted(batches(length, batch_size, seed), interrupt_at, action)

    settings = config.batch_size, config.width, config.learning_rate
    arms = {"Adaptive-k": arm(True, *settings)}
    if both_arms:
        arms["all"] = arm(False, *settings)
    return run(config, arms, data, evaluate, batches=interruptible, steps_per_call=steps_per_call, **more)


if __name__ == "__main__":
    folders.plot = lambda *args: []
    main(Config(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None, kill, both_arms=True)
