"""The loop of one arm: compiled once, run for one seed after the other, resumed from the last checkpoint."""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine.checkpoints import Checkpoints
from experiments.engine.reports import Record, Records, folder_name


class State(NamedTuple):
    """All that changes in a run; any pytree of arrays in each field."""

    params: Any
    opt_state: Any
    selection_state: Any = ()
    keys: Any = ()
    step: Any = 0


class Arm(NamedTuple):
    """One method under test: `init(key) -> State` and `step(state, batch) -> (state, metrics)`, both jittable.

    Its batches are rows of `data(seed)[split]`.
    """

    init: Callable[[jax.Array], State]
    step: Callable[[State, dict[str, jax.Array]], tuple[State, dict[str, Any]]]
    split: str = "train"


class BatchIterator(Protocol):
    """Where batches come from: an iterator whose position can be saved as JSON."""

    def __next__(self) -> Any: ...
    def get_state(self) -> Any: ...
    def set_state(self, state: Any) -> None: ...


Data = dict[str, Any]
Evaluate = Callable[[State, Data], dict[str, Any]]
Batches = Callable[[int, int, int], BatchIterator]


class Loop:
    """Runs one arm for one seed after the other; compiles once for all seeds."""

    def __init__(
        self, config, name: str, arm: Arm, evaluate: Evaluate, steps_per_call: int, records: Records, out: Path
    ):
        self._config, self._name, self._arm, self._evaluate = config, name, arm, evaluate
        self._steps_per_call, self._records = steps_per_call, records
        self._folder = out / "checkpoints" / folder_name(name)

    def run(self, seed: int, data: Callable[[], Data], batches: Batches, advance_bar: Callable[[int], None]) -> bool:
        """Train from the last checkpoint to the end; False if the run had already finished."""
        config, records = self._config, self._records
        checkpoints = Checkpoints(self._folder / str(seed))
        try:
            if checkpoints.latest_step() == config.steps and self._has_records(seed, config.steps):
                advance_bar(config.steps)
                return False
            train = data()[self._arm.split]
            length = len(jax.tree.leaves(train)[0])
            iterator = batches(length, config.batch_size, _batch_seed(seed))
            key = jax.random.key(seed)
            state, totals, step, seconds = self._restore_or_init(seed, checkpoints, iterator, key, train)
            records.drop(self._name, seed, after=step)
            advance_bar(step)
            started = time.perf_counter() - seconds
            while step < config.steps:
                index = np.stack([np.asarray(next(iterator)["index"]) for _ in range(self._steps_per_call)])
                state, totals = _advance(self._arm.step, state, totals, train, index)
                step += self._steps_per_call
                advance_bar(self._steps_per_call)
                last = step == config.steps
                if last or step % config.evaluate_every == 0:
                    metrics = {**self._evaluate(state, data()), **_means(totals)}
                    totals = jax.tree.map(jnp.zeros_like, totals)
                    seconds = time.perf_counter() - started
                    records.append(_record(self._name, seed, step, metrics, seconds))
                if last or step % config.checkpoint_every == 0:
                    records.sync()
                    values = {"iterator": iterator.get_state(), "seconds": time.perf_counter() - started}
                    checkpoints.save(step, {**state._asdict(), "totals": totals}, values)
            checkpoints.wait()
            return True
        finally:
            checkpoints.close()

    def final_state(self, seed: int, data: Callable[[], Data]) -> State:
        """The state after the last step of a run that is finished, from its checkpoint."""
        checkpoints = Checkpoints(self._folder / str(seed))
        try:
            shapes = self._shapes(jax.random.key(seed), data()[self._arm.split])
            restored = checkpoints.restore(shapes)
            if restored is None or restored.step != self._config.steps:
                raise RuntimeError(
                    f"The last checkpoint in {self._folder / str(seed)} is gone or was damaged, so {self._name}, seed "
                    f"{seed}, has not finished: start the same command again, and it goes on from the one before."
                )
            arrays = dict(restored.arrays)
            del arrays["totals"]
            return State(**arrays)
        finally:
            checkpoints.close()

    def _shapes(self, key, train) -> dict[str, Any]:
        shapes = jax.eval_shape(functools.partial(_initial_state, self._arm.init), key)
        totals = _totals_shape(self._arm.step, shapes, train, self._config.batch_size)
        return {**shapes._asdict(), "totals": totals}

    def _restore_or_init(self, seed, checkpoints, iterator, key, train):
        shapes = self._shapes(key, train)
        restored = checkpoints.restore(shapes)
        if restored and self._has_records(seed, restored.step):
            arrays = dict(restored.arrays)
            totals = arrays.pop("totals")
            iterator.set_state(restored.values["iterator"])
            return State(**arrays), totals, restored.step, restored.values["seconds"]
        checkpoints.clear()
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["totals"])
        return _initial_state(self._arm.init, key), zeros, 0, 0.0

    def _has_records(self, seed: int, step: int) -> bool:
        """Whether the file holds every evaluation up to a step."""
        every, last = self._config.evaluate_every, self._config.steps
        wanted = [s for s in range(1, step + 1) if s % every == 0 or s == last]
        return [r["step"] for r in self._records.of(self._name, seed) if r["step"] <= step] == wanted


def _batch_seed(seed: int) -> int:
    """Another seed, so that `np.random.default_rng(seed)` in `data(seed)` and the batches share no random numbers."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


@functools.partial(jax.jit, static_argnums=0)
def _initial_state(init, key):
    return init(key)._replace(step=jnp.int32(0))


@functools.partial(jax.jit, static_argnums=0)
def _advance(step, state, totals, train, index):
    """Take one step for each row of `index` `[steps, B]` and add up their metrics."""

    def body(carry, rows):
        state, new = _counted_step(step, carry[0], train, rows)
        return (state, jax.tree.map(jnp.add, carry[1], new)), None

    if len(index) == 1:
        return body((state, totals), index[0])[0]
    return jax.lax.scan(body, (state, totals), index)[0]


@functools.partial(jax.jit, static_argnums=0)
def _counted_step(step, state, train, index):
    """One step; its metrics become pairs (sum, count), so that they add up over steps."""
    batch = {**jax.tree.map(lambda x: x[index], train), "index": index}
    new, metrics = step(state, batch)
    pairs = {name: value if isinstance(value, tuple) else (value, 1) for name, value in metrics.items()}
    return new._replace(step=state.step + 1), jax.tree.map(lambda x: jnp.asarray(x).astype(jnp.float32), pairs)


def _totals_shape(step, state, train, batch_size: int) -> Any:
    index = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    return jax.eval_shape(functools.partial(_counted_step, step), state, train, index)[1]


def _means(totals: dict[str, tuple[jax.Array, jax.Array]]) -> dict[str, float]:
    return {name: float(s) / float(n) if n else math.nan for name, (s, n) in totals.items()}


def _record(arm: str, seed: int, step: int, metrics: dict[str, Any], seconds: float) -> Record:
    finite = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
    return {"arm": arm, "seed": seed, "step": step, "metrics": finite, "seconds": round(seconds, 3)}
