"""Mixtures that a small proxy model finds before the run: DoReMi, DoGE, Skill-It, with the proxy's cost counted."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare
from experiments.mixing import _proxies
from experiments.mixing._domain_training import (
    Domains,
    Run,
    Trainer,
    compare_at_equal_time,
    domains_of,
    network,
    summarize,
)
from experiments.shared.text_domains import DOMAINS, domain_losses
from minibatch_jax.mixing import skill_mixture, temperature_mixture
from minibatch_jax.sampling import mixture

BETTER = {"mean_loss": "lower", "worst_loss": "lower"}
NATURAL = "natural"
BEFORE = "proxy_cpu_seconds"


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the mixture alone."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/proxy_mixtures"
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
    proxy_width: int = 16
    proxy_depth: int = 1
    proxy_steps: int = 200
    graph_steps: int = 30
    """of each of the twelve runs that give the graph of Skill-It"""
    window: int = 3
    """measurements that Skill-It sums"""
    skill_step: float = 0.5
    """of Skill-It"""
    measured: int = 64
    """training windows of each domain on which Skill-It measures losses"""
    validate: bool = False
    """measure on documents left out of the training documents: for tuning"""


def main(config: Config):
    """Find mixtures, train with them, and report at equal tokens and at equal time, proxies included."""
    names = {"DoReMi, step 1": functools.partial(_proxies.doremi, step_size=1.0)}
    names |= {"DoReMi, step 0.1": functools.partial(_proxies.doremi, step_size=0.1), "DoGE": _proxies.doge}
    trainer = Trainer(config, mixture(len(DOMAINS), config.batch_size, optax.identity()))
    arms: dict[str, Callable[[int], Any]] = {
        NATURAL: lambda seed: fixed(config, trainer, lambda sizes: temperature_mixture(sizes, 1.0), seed),
        "uniform": lambda seed: fixed(config, trainer, lambda sizes: jnp.full(len(sizes), 1 / len(sizes)), seed),
    }
    for name, make in names.items():
        arms[name] = functools.partial(found, config, trainer, _proxies.Timed(make(config)))
    arms["Skill-It"] = skill_it(config, trainer)
    records = compare(config, arms, xlabel="steps", summary=summarize, baseline=NATURAL, better=BETTER)
    compare_at_equal_time(config, records, NATURAL, BETTER, BEFORE)
    return records


def fixed(config: Config, trainer: Trainer, mixture_of: Callable[[Any], jax.Array], seed: int) -> Any:
    """Train on a mixture that the sizes of the domains give."""
    domains = domains_of(config, seed)
    return with_cost(trainer(domains, seed, mixture_of(domains.sizes)), 0.0)


def found(config: Config, trainer: Trainer, find: _proxies.Timed, seed: int) -> Any:
    """Find a mixture with a proxy, and train on it."""
    domains = domains_of(config, seed)
    mix, seconds = find(domains.tokens, domains.domain, jax.random.key(seed))
    return with_cost(trainer(domains, seed, mix / jnp.sum(mix)), seconds)


def skill_it(config: Config, trainer: Trainer) -> Callable[[int], Any]:
    """An arm: a graph from proxies, and a mixture that follows the losses between the parts of the run."""
    graph_of = _proxies.Timed(_proxies.skill_graph(config))
    losses_of = _proxies.Timed(functools.partial(domain_losses, network(config, 0)[0]))

    def arm(seed: int) -> Any:
        domains = domains_of(config, seed)
        windows = jnp.asarray(measured_windows(domains, config.measured, seed))
        graph, seconds = graph_of(domains.tokens, domains.domain, jax.random.key(seed), windows)
        spent, last = [seconds], [jnp.ones(len(DOMAINS))]

        def between(run: Run) -> Run:
            losses, seconds = losses_of(run.params, windows)
            spent.append(seconds)
            last.append(losses)
            recent = jnp.sum(jnp.stack(last[1:][-config.window :]), axis=0)
            mix = skill_mixture(graph, recent, config.skill_step)
            return run._replace(places=run.places._replace(prior=mix, weights=jnp.copy(mix)))

        made = trainer(domains, seed, skill_mixture(graph, last[0], config.skill_step), between)
        return with_cost(made, sum(spent))

    return arm


def measured_windows(domains: Domains, number: int, seed: int) -> np.ndarray:
    """Training windows of each domain, `[K, number, L]`."""
    rng = np.random.default_rng([seed, 2])
    rows = [rng.choice(np.flatnonzero(domains.domain == k), number) for k in range(len(domains.names))]
    return np.asarray(domains.tokens)[np.stack(rows)]


def with_cost(made: dict[int, dict[str, float]], seconds: float) -> dict[int, dict[str, float]]:
    """The measurements, the last with the CPU seconds that were spent on proxies."""
    made[max(made)][BEFORE] = seconds
    return made
