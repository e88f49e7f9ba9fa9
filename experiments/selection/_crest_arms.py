"""CREST, new coresets in every step, and random batches: training, its CPU time, and how hard the chosen rows are."""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, descend, weighted_gradient
from experiments.engine.reports import Record
from minibatch_jax import sampling, scores
from minibatch_jax.mining.class_batches import index_classes
from minibatch_jax.sampling import Rows, Sampler
from minibatch_jax.sampling.coresets import CrestState, random_coreset
from minibatch_jax.selection.crest import LearnedState

BASELINE = "random 10%"
PATIENCE = 5
REFERENCE_SEED = 1000
CHECKPOINTS = 10
"""of the reference run, at which the examples count as right or wrong"""
ERROR_BATCHES = 4
ERROR_ROWS = 2000
ERROR_EVERY = 4
"""evaluations for one at which the errors of gradients are measured"""

Logits = Callable[[Any, Any], jax.Array]


class Problem(NamedTuple):
    """What is learned, and the sizes and settings that all arms share.

    Attributes:
      data: gives the splits "train" and "test", each of `input` and `label`, on the device.
      logits: `logits(params, inputs)`, `[n, classes]`.
      params: parameters by seed.
      classes: number of classes.
      medoids: rows of a class in a coreset; batches of all arms have as many rows.
      subset: rows of a class in a random subset.
      coresets_per_step: of CREST, and of its interval the factor `multiplier`.
      rates: learning rates for random batches and for coresets.
    """

    data: Callable[[], dict[str, Any]]
    logits: Logits
    params: Callable[[int], Any]
    classes: int
    medoids: int
    subset: int
    coresets_per_step: int
    multiplier: float
    rates: tuple[float, float]

    @property
    def sizes(self) -> dict[str, Any]:
        """Rows of a coreset and of the subset that it is chosen from."""
        return {"batch_size": self.classes * self.medoids, "subset_size": self.classes * self.subset}


class Plan(NamedTuple):
    """How an arm draws its batches ("random", "CREST" or "fresh"), its steps and evaluations, and which start random.

    With `errors`, it measures the errors of the gradients of batches, too.
    """

    kind: str
    steps: int
    evaluations: int
    warmup: int = 1
    errors: bool = False


class Run(NamedTuple):
    """All that changes in a run; `crest` is the state of the sampler, () while batches are random."""

    params: Any
    opt_state: Any
    crest: Any = ()


def race(
    config: Any,
    data: dict[str, Any],
    logits: Logits,
    params: Callable[[int], Any],
    classes: int,
    *,
    errors: bool = False,
) -> list[Record]:
    """Train full, on random batches, by CREST and on new coresets, as the configuration of an experiment says.

    Args:
      config: sizes, steps, rates and targets.
      data: splits "train" and "test", as in `Problem`. Load them before: an import would break a bar that is running.
      logits: as in `Problem`.
      params: as in `Problem`.
      classes: as in `Problem`.
      errors: whether to measure the errors of the gradients of batches along full training.
    """
    problem = Problem(
        data=lambda: data,
        logits=logits,
        params=params,
        classes=classes,
        medoids=config.medoids,
        subset=config.subset,
        coresets_per_step=config.coresets_per_step,
        multiplier=config.multiplier,
        rates=(config.random_rate, config.coreset_rate),
    )
    plans = {
        "full": Plan("random", config.steps, config.evaluations, errors=errors),
        BASELINE: Plan("random", config.tenth, config.evaluations),
        "random, same time": Plan("random", config.same_time, config.evaluations),
        "CREST 10%": Plan("CREST", config.tenth, config.evaluations),
        "fresh coresets 10%": Plan("fresh", config.tenth, config.evaluations),
    }
    arms = {name: trainer(problem, plan, config.steps) for name, plan in plans.items()}
    return compare(
        config,
        arms,
        xlabel="examples differentiated, % of full training",
        summary=functools.partial(summarize, config.targets),
        baseline=BASELINE,
        better={"test_accuracy": "higher"},
    )


def trainer(problem: Problem, plan: Plan, full_steps: int) -> Callable[[int], Any]:
    """An arm: `seed -> {percent of the full budget: metrics}`; the learning rate falls to 0 over its own steps."""
    each, kind = plan.steps // plan.evaluations, plan.kind
    sampler = sampler_of(problem, kind)
    init, take_step, random_steps = training(problem, kind, plan.steps)

    @jax.jit
    def first_selection(run, train, key):
        rows, state = sampler.sample(sampler.init(key, labels=train["label"], params=run.params))
        return run._replace(crest=sampler.update(state, rows, params=run.params, data=train))

    @jax.jit
    def chosen_steps(run, train):
        def step(run, _):
            rows, state = sampler.sample(run.crest)
            run = take_step(run, train, rows)
            return run._replace(crest=sampler.update(state, rows, params=run.params, data=train)), rows

        return jax.lax.scan(step, run, length=each)

    def arm(seed: int) -> dict[float, Any]:
        data, hard, key = problem.data(), difficulty(problem, full_steps // 10), jax.random.key(seed)
        train = data["train"]
        run, clock, made = init(seed), Clock(), {}
        rows = random_rows(len(train["label"]), problem.sizes["batch_size"], plan.steps, seed)
        for number, batches in enumerate(np.split(rows, plan.evaluations)):
            metrics: dict[str, Any] = {}
            if kind == "random" or number < plan.warmup:
                run, drawn = clock(random_steps, run, train, jnp.asarray(batches)), batches
            else:
                if not run.crest:
                    run = clock(first_selection, run, train, jax.random.fold_in(key, 1))
                run, chosen = clock(chosen_steps, run, train)
                drawn = np.asarray(chosen.indices)[np.asarray(chosen.weights) > 0]
                metrics |= spent(problem, run.crest, (number + 1) * each)
            if plan.errors and number % ERROR_EVERY == ERROR_EVERY - 1:
                metrics |= error_ratios(problem, jax.random.fold_in(key, 2), run.params, train)
            metrics["test_accuracy"] = jnp.mean(right(problem.logits, run.params, data["test"]))
            metrics |= {"difficulty": np.mean(hard[drawn]), "cpu_seconds": clock.seconds}
            made[round(100 * (number + 1) * each / full_steps, 6)] = jax.device_get(metrics)
        return made

    return arm


def training(problem: Problem, kind: str, steps: int) -> tuple[Callable, Callable, Callable]:
    """Functions of a run by seed, of one step on weighted rows, and of steps on uniform rows `[n, b]`."""
    items = items_of(problem.logits)
    gradient = weighted_gradient(lambda params, batch: items(params, batch)[0])
    optimizer = optax.adam(optax.cosine_decay_schedule(problem.rates[kind != "random"], steps))
    uniform = jnp.full(problem.sizes["batch_size"], 1 / problem.sizes["batch_size"])

    def init(seed: int) -> Run:
        params = problem.params(seed)
        return Run(params, optimizer.init(params))

    def take_step(run: Run, train: Any, rows: Rows) -> Run:
        batch = jax.tree.map(lambda x: x[rows.indices], train)
        grads = gradient(run.params, batch, rows.weights)[1]
        params, opt_state = descend(optimizer, grads, run.params, run.opt_state)
        return run._replace(params=params, opt_state=opt_state)

    @jax.jit
    def random_steps(run: Run, train: Any, rows: jax.Array) -> Run:
        return jax.lax.scan(lambda run, rows: (take_step(run, train, Rows(rows, uniform)), None), run, rows)[0]

    return init, take_step, random_steps


class Clock:
    """Calls compiled functions and adds up their CPU seconds, without the first of each, which is repeated."""

    def __init__(self):
        self.seconds = 0.0
        self._warm: set[Any] = set()

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        if function not in self._warm:
            self._warm.add(function)
            jax.block_until_ready(function(*args))
        started = time.process_time()
        result = jax.block_until_ready(function(*args))
        self.seconds += time.process_time() - started
        return result


def items_of(logits: Logits) -> Callable[[Any, Any], Any]:
    """Function of the loss of each example `[n]` and, as features, of its gradient in the logits `[n, classes]`."""

    def items(params, batch):
        made = logits(params, batch["input"])
        losses = optax.softmax_cross_entropy_with_integer_labels(made, batch["label"])
        return losses, {"features": scores.last_layer_gradients(made, batch["label"])}

    return items


def sampler_of(problem: Problem, kind: str) -> Sampler:
    """CREST, or if "fresh" one that makes a new coreset after every step and has no model."""
    items = items_of(problem.logits)
    settings = {"coresets_per_step": problem.coresets_per_step, "multiplier": problem.multiplier, "patience": PATIENCE}
    sampler = sampling.crest(items, num_classes=problem.classes, **problem.sizes, **settings)

    def fresh(state: CrestState, rows: Rows, *, params: Any, data: Any) -> CrestState:
        next_key, key = jax.random.split(state.rng_key)
        made = random_coreset(items, key, params, data, state.examples, state.learned, **problem.sizes)
        return state._replace(
            rng_key=next_key,
            learned=made.learned,
            coresets=jax.tree.map(lambda old, new: old.at[0].set(new), state.coresets, made.rows),
            filled=jnp.ones((), jnp.int32),
            costs=state.costs._replace(coresets=state.costs.coresets + 1),
        )

    return sampler._replace(update=fresh) if kind == "fresh" else sampler


def spent(problem: Problem, state: CrestState, steps: int) -> dict[str, Any]:
    """What the selection passed forward and differentiated, by example that trained, and the share that is learned."""
    costs, subset, cover = state.costs, problem.sizes["subset_size"], problem.coresets_per_step
    batch_size = problem.sizes["batch_size"]
    return {
        "forward_examples": subset * (cover * costs.checks + costs.coresets) / (steps * batch_size),
        "probe_examples": 2 * cover * costs.selections / steps,  # a probe differentiates a gradient: another gradient
        "selections": costs.selections,
        "checks": costs.checks,
        "learned": jnp.mean(state.learned.streaks >= PATIENCE),
    }


@functools.partial(jax.jit, static_argnums=0)
def right(logits: Logits, params: Any, split: dict[str, jax.Array]) -> jax.Array:
    """Which examples are classified rightly, `[n]`."""
    return jnp.argmax(logits(params, split["input"]), axis=1) == split["label"]


@functools.cache
def difficulty(problem: Problem, steps: int) -> np.ndarray:
    """Share of the checkpoints of another run on random batches at which each training example is wrong, `[N]`."""
    train = problem.data()["train"]
    init, _, random_steps = training(problem, "random", steps)
    run, wrong = init(REFERENCE_SEED), np.zeros(len(train["label"]))
    rows = random_rows(len(wrong), problem.sizes["batch_size"], steps, REFERENCE_SEED)
    for batches in np.array_split(rows, CHECKPOINTS):
        run = random_steps(run, train, jnp.asarray(batches))
        wrong += ~np.asarray(right(problem.logits, run.params, train))
    return wrong / CHECKPOINTS


@functools.partial(jax.jit, static_argnums=0)
def error_ratios(problem: Problem, key: jax.Array, params: Any, train: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Squared error of the gradient of a new coreset, with its weights and without, over that of a random batch."""
    items, count, batch_size = items_of(problem.logits), len(train["label"]), problem.sizes["batch_size"]
    weighted_losses = weighted_gradient(lambda params, batch: items(params, batch)[0])
    examples = index_classes(train["label"], problem.classes)
    learned = LearnedState(jnp.zeros(count, jnp.int32))

    def gradient(rows, weights):
        return weighted_losses(params, jax.tree.map(lambda x: x[rows], train), weights)[1]

    sample = jnp.arange(0, count, max(count // ERROR_ROWS, 1))
    full = gradient(sample, jnp.full(len(sample), 1 / len(sample)))

    def errors(key):
        subset_key, random_key = jax.random.split(key)
        rows, weights = random_coreset(items, subset_key, params, train, examples, learned, **problem.sizes).rows
        uniform = jnp.full(batch_size, 1 / batch_size)
        random = jax.random.randint(random_key, (batch_size,), 0, count)
        made = gradient(rows, weights), gradient(rows, uniform), gradient(random, uniform)
        return [optax.tree.norm(optax.tree.sub(found, full), squared=True) for found in made]

    weighted, unweighted, random = map(jnp.mean, jax.lax.map(errors, jax.random.split(key, ERROR_BATCHES)))
    return {"error_ratio": weighted / random, "error_ratio_without_weights": unweighted / random}


def summarize(targets: tuple[float, ...], records: list[dict[str, Any]]) -> dict[str, float]:
    """Last metrics, mean error ratios, the CPU seconds to each target (NaN: never), and the difficulty by quarter."""
    last = {name: math.nan if value is None else value for name, value in records[-1]["metrics"].items()}
    for name in [name for name in last if name.startswith("error")]:
        last[name] = float(np.mean([r["metrics"][name] for r in records if name in r["metrics"]]))
    curve = [(r["metrics"]["test_accuracy"], r["metrics"]["cpu_seconds"]) for r in records]
    seconds = {f"seconds_to_{t:.0%}": next((s for a, s in curve if a >= t), math.nan) for t in targets}
    quarters = np.array_split([r["metrics"]["difficulty"] for r in records], 4)
    hard = {f"difficulty_{number}": float(np.mean(values)) for number, values in enumerate(quarters, 1)}
    del last["difficulty"]
    return {"test_accuracy": last.pop("test_accuracy"), **seconds, **hard, **last}


def random_rows(num_examples: int, batch_size: int, steps: int, seed: int) -> np.ndarray:
    """Batches `[steps, batch_size]` of one permutation after the other, each without its incomplete last batch."""
    rng, per_epoch = np.random.default_rng(seed), num_examples // batch_size
    epochs = [rng.permutation(num_examples)[: per_epoch * batch_size] for _ in range(-(-steps // per_epoch))]
    return np.concatenate(epochs).reshape(-1, batch_size)[:steps].astype(np.int32)
