"""What all tasks share: methods as calls of public factories, and a race of arms at equal compute."""

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.datasets import batches
from experiments.engine import Arm, State, compare
from experiments.engine.reports import Record

COMPUTE = "rows forwarded + 2 × rows differentiated"
POINTS = 6
"""evaluations of a run, at equal distances of compute"""
Method = Callable[..., optax.GradientTransformationExtraArgs]


class Entry(NamedTuple):
    """An arm, with what it costs in rows: those forwarded + 2 x those differentiated.

    Attributes:
      arm: of the engine.
      rows: of the batch that an update sees.
      cost: of an update.
      before: cost before the first update, such as that of a reference model, in rows of the trained model.
    """

    arm: Arm
    rows: int
    cost: float
    before: float = 0.0


class Outcome(NamedTuple):
    """What a task has to say: the records of all runs, and factory -> the signals it lacks, of all methods."""

    records: list[Record]
    missing: dict[str, list[str]]


def call_text(method: Method) -> str:
    """The call of a method, a factory or a `functools.partial` of one, without its key."""
    found = method if isinstance(method, functools.partial) else functools.partial(method)
    given = {**dict(zip(inspect.signature(found.func).parameters, found.args)), **found.keywords}
    shown = (f"{k}={v.__name__ + '()' if callable(v) else repr(v)}" for k, v in given.items() if not is_data(v))
    return f"{found.func.__name__}({', '.join(shown)})"


def is_data(value: Any) -> bool:
    """Whether an argument is too large to be shown."""
    return isinstance(value, jax.Array | tuple)


def name_of(method: Method) -> str:
    """The name of the factory."""
    return method.func.__name__ if isinstance(method, functools.partial) else method.__name__


def made(method: Method, key: jax.Array | int) -> optax.GradientTransformationExtraArgs:
    """The transformation, with this key if it draws at random."""
    return method(key=key) if "key" in inspect.signature(method).parameters else method()


def race(
    config: Any,
    entries: Mapping[str, Entry],
    data: Callable[[int], dict[str, Any]],
    evaluate: Callable[[State, dict[str, Any]], dict[str, Any]],
    *,
    baseline: Any,
    better: Mapping[str, str],
    warm_up: Entry | None = None,
) -> list[Record]:
    """Train every entry with every seed until it has spent `config.budget`, and report.

    Args:
      config: the frozen dataclass of the task, with `seeds`, `out`, `arms` and `budget`, the compute of a run.
      entries: name -> entry.
      data: `data(seed)` gives the splits; the batches of an arm are rows of its split, and "index" `[B]`.
      evaluate: `evaluate(state, splits)` gives a dict of scalars; not jitted here.
      baseline: the arm that knows nothing, or arm -> its baseline.
      better: metric -> "higher" or "lower", for the metrics of the leaderboard.
      warm_up: trains every entry for the first sixth of the compute, for methods that choose by what the model knows.

    Returns:
      The records of all runs, six for each.
    """
    train_one = functools.partial(train, config, functools.cache(data), evaluate, warm_up)
    arms: Any = {name: functools.partial(train_one, entry) for name, entry in entries.items()}
    return compare(config, arms, xlabel=COMPUTE, baseline=baseline, better=better)


def train(
    config: Any,
    data: Callable[[int], dict[str, Any]],
    evaluate: Callable[[State, dict[str, Any]], dict[str, Any]],
    warm_up: Entry | None,
    entry: Entry,
    seed: int,
) -> dict[int, dict[str, Any]]:
    """The metrics of one run after each sixth of the compute, with the updates and the CPU seconds of training."""
    splits = data(seed)
    rows = splits[entry.arm.split]
    state = jax.jit(entry.arm.init)(jax.random.key(seed))
    total, seconds, found = 0, 0.0, {}
    for point, (part, updates) in enumerate(schedule(config.budget, warm_up, entry), 1):
        iterator = batches(len(jax.tree.leaves(rows)[0]), part.rows, 1000 * (seed + 1) + point)
        index = np.stack([next(iterator)["index"] for _ in range(updates)])
        own = state if part is entry else jax.jit(part.arm.init)(jax.random.key(seed))
        own = own._replace(params=state.params, opt_state=state.opt_state)
        jax.block_until_ready(_advance(part.arm.step, own, rows, index))  # compiles, and is as warm as the others
        started = time.process_time()
        own = jax.block_until_ready(_advance(part.arm.step, own, rows, index))
        seconds, total = seconds + time.process_time() - started, total + updates
        state = own if part is entry else state._replace(params=own.params, opt_state=own.opt_state)
        metrics = {**evaluate(state, splits), "updates": total, "cpu_seconds": round(seconds, 3)}
        found[config.budget * point // POINTS] = metrics
    return found


def schedule(budget: int, warm_up: Entry | None, entry: Entry) -> list[tuple[Entry, int]]:
    """What trains in each sixth of the compute, and for how many updates, so that none spends more than the budget."""
    first = [] if warm_up is None else [(warm_up, int(budget // (POINTS * warm_up.cost)))]
    points = POINTS - len(first)
    left = budget * points / POINTS - entry.before
    updates = int(left // (points * entry.cost))
    if updates < 1:
        least = (entry.before + points * entry.cost) * POINTS / points
        raise ValueError(f"budget is {budget}, wanted at least {least:.0f}.")
    return [*first, *[(entry, updates)] * points]


@functools.partial(jax.jit, static_argnums=0)
def _advance(step: Callable, state: State, rows: Any, index: jax.Array) -> State:
    """One update for each row of `index` [updates, B]."""

    def body(state, chosen):
        return step(state, {**jax.tree.map(lambda x: x[chosen], rows), "index": chosen})[0], None

    return jax.lax.scan(body, state, index)[0]
