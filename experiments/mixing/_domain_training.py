"""A byte transformer trained on batches from a mixture of text domains, measured on each domain."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.engine import compare, descend
from experiments.engine.reports import Record
from experiments.shared.backbones import Apply, ByteTransformer, Params, functional
from experiments.shared.text_domains import DOMAINS, byte_losses, domain_losses, text_domains
from minibatch_jax import value_and_grad
from minibatch_jax.sampling import Sampler

NOISE = "noise"


@dataclass(frozen=True)
class Training:
    """Fields that the experiments share; an experiment says where its results go."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    steps: int = 600
    batch_size: int = 64
    evaluate_every: int = 100
    length: int = 32
    """bytes of a window"""
    width: int = 32
    depth: int = 1
    fraction: float = 1 / 16
    """of the windows of each domain that a run may draw"""
    held_out: int = 256
    """windows of each domain that losses are measured on"""
    learning_rate: float = 1e-2
    validate: bool = False
    """measure on documents left out of the training documents: for tuning"""


class Domains(NamedTuple):
    """Windows to train on, sorted by domain, and held-out windows of each domain."""

    names: tuple[str, ...]
    tokens: jax.Array
    domain: jax.Array
    held_out: jax.Array

    @property
    def sizes(self) -> np.ndarray:
        """Windows of each domain."""
        return np.bincount(self.domain)


class Run(NamedTuple):
    """What changes in a run: parameters, their running average, and the states of optimizer and sampler."""

    params: Params
    average: Params
    opt_state: optax.OptState
    places: Any


@functools.lru_cache(1)
def domains_of(config: Training, seed: int, noise: bool = False) -> Domains:
    """The twelve domains of text; with `noise`, a thirteenth of random bytes, as large as they are on average."""
    splits = text_domains(config.length, validate=config.validate, fraction=config.fraction, seed=seed)
    train, held_out = splits["train"], splits["validation"]["tokens"].reshape(len(DOMAINS), -1, config.length)
    tokens, domain, names = train["tokens"], train["domain"], DOMAINS
    held_out = held_out[:, : config.held_out]
    if noise:
        rng, size = np.random.default_rng([seed, 1]), len(tokens) // len(DOMAINS)
        tokens = np.concatenate([tokens, rng.integers(0, 256, (size, config.length), np.uint8)])
        domain = np.append(domain, np.full(size, len(DOMAINS), np.int32))
        held_out = np.concatenate([held_out, rng.integers(0, 256, (1, *held_out.shape[1:]), np.uint8)])
        names = (*names, NOISE)
    return Domains(names, *map(jnp.asarray, (tokens, domain, held_out)))


def network(config: Training, seed: int) -> tuple[Apply, Params]:
    """The function of the network, and its parameters by seed."""
    sizes = {"length": config.length, "width": config.width, "depth": config.depth}
    return functional(ByteTransformer(**sizes, rngs=nnx.Rngs(seed)))


class Trainer:
    """Trains on what a sampler draws, and feeds the losses back to it."""

    def __init__(self, config: Training, sampler: Sampler, average: float = 0.98):
        """Keep what is the same for all seeds; `average` is the decay of the parameters that are measured."""
        self._config, self._sampler = config, sampler
        self._optimizer = optax.adam(config.learning_rate)
        apply, _ = network(config, 0)
        gradient = value_and_grad(
            functools.partial(byte_losses, apply), optax.with_extra_args_support(optax.identity())
        )

        def step(tokens, run, _):
            rows, places = sampler.sample(run.places)
            (_, aux), grads, _ = gradient(run.params, tokens[rows.indices], optax.EmptyState(), weights=rows.weights)
            of_row = places.domains[rows.indices]
            places = sampler.update(places, rows, losses=aux.items)
            params, opt_state = descend(self._optimizer, grads, run.params, run.opt_state)
            mean: Any = optax.incremental_update(params, run.average, 1 - average)
            drawn = jnp.zeros(len(places.weights), jnp.int32).at[of_row].add(1)
            return Run(params, mean, opt_state, places), drawn

        def advance(run, tokens):
            run, drawn = jax.lax.scan(functools.partial(step, tokens), run, length=config.evaluate_every)
            return run, jnp.sum(drawn, axis=0)

        self._advance = jax.jit(advance)
        self._evaluate = jax.jit(functools.partial(domain_losses, apply))

    def __call__(
        self,
        domains: Domains,
        seed: int,
        prior: jax.Array | None = None,
        between: Callable[[Run], Run] = lambda run: run,
    ) -> dict[int, dict[str, float]]:
        """Train a run, and measure it every `evaluate_every` steps.

        Args:
          domains: what to train on and to measure.
          seed: of the parameters and the draws.
          prior: of the sampler.
          between: changes the run after each measurement, as by feedback of other losses.
        """
        params = network(self._config, seed)[1]
        places = self._sampler.init(jax.random.key(seed), domains=domains.domain, prior=prior)
        run, made = Run(params, params, self._optimizer.init(params), places), {}
        for step in range(self._config.evaluate_every, self._config.steps + 1, self._config.evaluate_every):
            start = time.process_time()
            run, drawn = jax.block_until_ready(self._advance(run, domains.tokens))
            seconds = time.process_time() - start
            losses = np.asarray(self._evaluate(run.average, domains.held_out))
            made[step] = measured(domains.names, losses, np.asarray(drawn))
            made[step] |= {"step_cpu_ms": 1e3 * seconds / self._config.evaluate_every}
            run = between(run)
        made[self._config.steps]["most_epochs"] = float(np.max(run.places.epochs + run.places.position / domains.sizes))
        return made


def measured(names: tuple[str, ...], losses: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """Mean and worst loss over the real domains in nats a byte, loss and share of the windows of each domain."""
    real = np.array([name != NOISE for name in names])
    share = drawn / drawn.sum()
    found = {"mean_loss": losses[real].mean(), "worst_loss": losses[real].max()}
    found |= {f"loss_{name}": loss for name, loss in zip(names, losses) if name != NOISE}
    return found | {f"share_{name}": value for name, value in zip(names, share)}


def summarize(records: list[Record]) -> dict[str, float]:
    """The last losses, the shares of the whole run, and the least cost of a step: others on the machine raise it."""
    last = dict(records[-1]["metrics"])
    for name in last:
        if name.startswith("share_"):
            last[name] = float(np.mean([r["metrics"][name] for r in records]))
    last["step_cpu_ms"] = min(r["metrics"]["step_cpu_ms"] for r in records)
    return last


def compare_at_equal_time(
    config: Any, records: list[Record], baseline: str, better: Mapping[str, str], before: str | None = None
) -> list[Record]:
    """Compare the losses of all arms when they have taken the time of the baseline's run, from the curves.

    An arm whose steps cost more, or that spent time before the run, is read off earlier; one that has no time
    left for its first measurement has no loss. The cost of a step is the least of all parts of all runs, in CPU time:
    fixed mixtures run one program, and differ by chance.

    Args:
      config: of the experiment.
      records: of all arms and seeds.
      baseline: whose time all arms have.
      better: of the metrics to compare.
      before: metric of the last record with the CPU seconds that an arm spent before the run.
    """
    runs: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        runs.setdefault((record["arm"], record["seed"]), []).append(record)
    arms = list(dict.fromkeys(arm for arm, _ in runs))
    costs = [(arm, summarize(made)["step_cpu_ms"]) for (arm, _), made in runs.items()]
    cost = {arm: min(ms for name, ms in costs if name == arm) for arm in arms}

    def at_equal_time(arm: str, seed: int) -> dict[str, float]:
        made = runs[arm, seed]
        steps = [r["step"] for r in made]
        spent = made[-1]["metrics"].get(before, 0.0) if before else 0.0
        reached = (steps[-1] * cost[baseline] - 1e3 * spent) / cost[arm]
        curves = {name: [r["metrics"][name] for r in made] for name in better}
        found = {name: float(np.interp(reached, steps, curve, left=np.nan)) for name, curve in curves.items()}
        return found | {"steps": min(max(reached, 0.0), steps[-1])}

    return compare(
        dataclasses.replace(config, out=f"{config.out}/equal_time"),
        {arm: functools.partial(at_equal_time, arm) for arm in arms},
        baseline=baseline,
        better=better,
    )
