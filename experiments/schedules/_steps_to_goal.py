"""Steps to a goal for each batch size: rates tuned on one seed, others measured at the best rate, and the noise scale.

A program trains three runs at once, with their own rates and keys, and stops when enough of them have reached the goal.
The same program tunes three rates on one seed and measures three seeds at one rate. Evaluations come at steps in
geometric progression, so that each batch size is evaluated equally often, and the step of the goal is interpolated.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import descend
from experiments.schedules._workloads import Task, Workload
from minibatch_jax.schedules import best_over_trials, edge_of_search_space, ewa_decay_for_batch, steps_to_result
from minibatch_jax.scores import grouped_value_and_grad, noise_scale

TUNING_SEED = 10
RUNS = 3
CONSECUTIVE = 2
"""evaluations in a row that must reach the goal"""
WINDOW = 1 / 16
"""of the average of parameters, as a fraction of the examples that the smallest batch size sees"""
GROUPS = 8
"""micro-batches of a step, whose gradients the noise scale compares"""
NOISE_DECAY = 0.95


class Curves(NamedTuple):
    """Held-out losses of three runs.

    Attributes:
      steps: `[E]`, of the evaluations.
      values: `[3, E]`, NaN where a run was over.
    """

    steps: jax.Array
    values: jax.Array

    def reached(self, goal: float) -> jax.Array:
        """Steps to the goal `[3]`, inf where it was not reached."""
        to_goal = functools.partial(steps_to_result, goal=goal, consecutive=CONSECUTIVE, interpolate=True)
        return jnp.stack([to_goal(self.steps, values) for values in self.values])


class Measured(NamedTuple):
    """What was found at one batch size.

    Attributes:
      rate: the best learning rate.
      tuned_steps: steps to the goal at this rate on the seed of the tuning.
      steps: steps to the goal of the other seeds, inf where it was not reached.
    """

    rate: float
    tuned_steps: float
    steps: tuple[float, ...]


def marks(spacing: float) -> np.ndarray:
    """Steps of evaluations, from 4 on."""
    return np.unique(np.ceil(4 * spacing ** np.arange(160)).astype(np.int32))


@functools.cache
def program(task: Task, batch_size: int, spacing: float) -> Any:
    """`run(train, held_out, keys [3], rates [3], warmup, decay, goal, enough, limit) -> (Curves, last losses)`."""
    at = marks(spacing)

    def run(train, held_out, keys, rates, warmup, decay, goal, enough, limit):
        def start(key, rate):
            params = task.start(jax.random.fold_in(key, 0))
            return params, task.optimizer(rate, warmup).init(params), jax.tree.map(jnp.zeros_like, params)

        def step(number, state, key, rate):
            params, opt_state, average = state
            batch = draw(train, key, number, batch_size)
            grads = jax.grad(lambda p: jnp.mean(task.losses(p, batch)))(params)
            params, opt_state = descend(task.optimizer(rate, warmup), grads, params, opt_state)
            return params, opt_state, optax.incremental_update(params, average, 1 - decay)

        def evaluate(state, number):
            average = optax.tree.bias_correction(state[2], decay, number)
            return jnp.mean(task.losses(average, held_out))

        def goes_on(carry):
            _, number, index, _, _, in_a_row, _ = carry
            return (number < limit) & (index < len(at)) & (jnp.sum(in_a_row >= CONSECUTIVE) < enough)

        def advance(carry):
            states, number, index, steps, values, in_a_row, _ = carry
            until = jnp.minimum(jnp.asarray(at)[index], limit)

            def all_runs(i, states):
                return jax.vmap(step, (None, 0, 0, 0))(i, states, keys, rates)

            states = jax.lax.fori_loop(number, until, all_runs, states)
            found = jax.vmap(evaluate, (0, None))(states, until)
            over = in_a_row >= CONSECUTIVE
            in_a_row = jnp.where(over, in_a_row, jnp.where(found <= goal, in_a_row + 1, 0))
            steps, values = steps.at[index].set(until), values.at[:, index].set(jnp.where(over, jnp.nan, found))
            return states, until, index + 1, steps, values, in_a_row, found

        states = jax.vmap(start)(keys, rates)
        later = jnp.iinfo(jnp.int32).max - len(at) + jnp.arange(len(at))
        values = jnp.full((RUNS, len(at)), jnp.nan)
        nothing = jnp.zeros(RUNS, jnp.int32)
        carry = states, jnp.int32(0), jnp.int32(0), later, values, nothing, jnp.full(RUNS, jnp.inf)
        _, _, _, steps, values, _, last = jax.lax.while_loop(goes_on, advance, carry)
        return Curves(steps, values), last

    return jax.jit(run)


def draw(train: Any, key: jax.Array, step: jax.Array, batch_size: int) -> Any:
    """The rows of a step, drawn with replacement."""
    size = jax.tree.leaves(train)[0].shape[0]
    rows = jax.random.randint(jax.random.fold_in(key, step + 1), (batch_size,), 0, size)
    return jax.tree.map(lambda x: x[rows], train)


def measure(workload: Workload, seeds: tuple[int, ...]) -> tuple[dict[int, Measured], float]:
    """Steps to the goal for each batch size, and the goal."""
    found: dict[int, Measured] = {}
    smallest = workload.batch_sizes[0]
    limit = workload.examples // smallest
    rate, goal, _ = _tuned(workload, smallest, workload.rate, -np.inf, limit)
    limit *= 4
    for size in workload.batch_sizes:
        rate, _, steps = _tuned(workload, size, rate, goal, limit)
        run = functools.partial(_run, workload, size, rates=jnp.full(RUNS, rate), goal=goal, enough=RUNS)
        limit = int(4 * steps)
        curves, _ = run(seeds=seeds, limit=limit)
        found[size] = Measured(rate, steps, tuple(float(s) for s in curves.reached(goal)))
    return found, goal


def _tuned(workload: Workload, size: int, middle: float, goal: float, limit: int) -> tuple[float, float, float]:
    """The best rate in powers of 2, never at an edge of those tried, with its last loss and its steps to the goal.

    Without a goal, which is -inf, the rate with the lowest last loss is the best.
    """
    without_goal = goal == -np.inf
    tried: dict[float, tuple[float, float]] = {}
    rates = middle * 2.0 ** np.arange(-1, RUNS - 1)
    while True:
        curves, last = _run(
            workload, size, jnp.asarray(rates, jnp.float32), goal, 1, seeds=(TUNING_SEED,) * RUNS, limit=limit
        )
        steps, last = np.asarray(curves.reached(goal)), np.nan_to_num(np.asarray(last), nan=np.inf)
        tried |= {float(r): (float(x), float(s)) for r, x, s in zip(rates, last, steps)}
        ordered = sorted(tried)
        scores = jnp.asarray([tried[r][0] if without_goal else tried[r][1] for r in ordered])
        index, _ = best_over_trials(scores)
        if int(index) < 0:
            if len(tried) >= 5 * RUNS:
                raise RuntimeError(f"No rate of {ordered} reaches the goal with a batch of {size}.")
            rates = np.array([ordered[0] / 4, ordered[0] / 2, 2 * ordered[-1]])
            continue
        best = ordered[int(index)]
        ends = np.log2([ordered[0], ordered[-1]])
        edge = int(edge_of_search_space(jnp.log2(jnp.asarray([best])), ends[0], ends[1], margin=0.01)[0])
        if not edge:
            return best, *tried[best]
        rates = best * 2.0 ** (np.arange(1, RUNS + 1) if edge > 0 else -np.arange(RUNS, 0, -1.0))
        if not without_goal:  # a rate that needs more steps than the best one cannot be better
            limit = min(limit, int(np.ceil(workload.spacing**2 * tried[best][1])) + 2)


def _run(workload, size, rates, goal, enough, *, seeds, limit):
    smallest = workload.batch_sizes[0]
    decay = ewa_decay_for_batch(1 - smallest / (WINDOW * workload.examples), smallest, size)
    warmup = max(1, workload.examples / 16 / size)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    run = program(workload.task, size, workload.spacing)
    return run(workload.train, workload.held_out, keys, rates, warmup, decay, goal, enough, limit)


@functools.cache
def noise_program(task: Task, batch_size: int, steps: int) -> Any:
    """`run(train, key, rate, warmup) -> noise scale [steps]` along a run, from the groups of each step."""
    fn = grouped_value_and_grad(task.losses, optax.identity(), micro_batches=GROUPS)
    monitor: Any = noise_scale(NOISE_DECAY)  # optax knows nothing of its signal and its state

    def run(train, key, rate, warmup):
        optimizer = task.optimizer(rate, warmup)

        def step(carry, number):
            params, opt_state, seen = carry
            batch = draw(train, key, number, batch_size)
            _, grads, _, groups = fn(params, batch, optax.EmptyState())
            grads, seen = monitor.update(grads, seen, groups=groups)
            return (*descend(optimizer, grads, params, opt_state), seen), seen.noise_scale

        params = task.start(jax.random.fold_in(key, 0))
        start = params, optimizer.init(params), monitor.init(params)
        return jax.lax.scan(step, start, jnp.arange(steps))[1]

    return jax.jit(run)


def noise_along(workload: Workload, rate: float, steps: int, seed: int) -> np.ndarray:
    """Noise scale `[steps]` along the run with this seed, at the batch size that the workload names for it."""
    run = noise_program(workload.task, workload.noise_batch, steps)
    warmup = max(1, workload.examples / 16 / workload.noise_batch)
    return np.asarray(run(workload.train, jax.random.key(seed), rate, warmup))
