"""Mixtures that are fixed by the sizes of the domains, and mixtures that training losses move."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.engine import compare
from experiments.engine.reports import Record
from experiments.mixing._domain_training import Trainer, Training, compare_at_equal_time, domains_of, summarize
from experiments.shared.text_domains import DOMAINS
from minibatch_jax.mixing import mix_by_odm, temperature_mixture, unimax_mixture
from minibatch_jax.sampling import mixture

NATURAL = "natural"
BETTER = {"mean_loss": "lower", "worst_loss": "lower"}
WITH_MORE_SEEDS = (NATURAL, "uniform", "ODM, perplexity")


@dataclass(frozen=True)
class OnlineConfig(Training):
    """Hyper-parameters; the arms differ in the mixture alone."""

    out: str = "runs/online_mixing"
    more_seeds: tuple[int, ...] = (3, 4)
    """of natural proportions, the uniform mixture and one form of online mixing"""
    temperature: float = 2.0
    max_epochs: float = 4.0
    """of UniMax"""
    decay: float = 0.9
    """of the rewards of online mixing"""
    warmup: int = 6
    """updates of online mixing that learn nothing: 1 % of the run"""


def fixed_mixtures(config: OnlineConfig) -> dict[str, Callable[[Any], jax.Array]]:
    """Functions of the sizes of the domains."""
    budget = config.steps * config.batch_size
    return {
        NATURAL: lambda sizes: temperature_mixture(sizes, 1.0),
        "uniform": lambda sizes: jnp.full(len(sizes), 1 / len(sizes)),
        f"temperature {config.temperature:g}": lambda sizes: temperature_mixture(sizes, config.temperature),
        f"UniMax, {config.max_epochs:g} epochs": lambda s: unimax_mixture(s, budget, config.max_epochs).mixture,
    }


def online_rules(config: OnlineConfig) -> dict[str, optax.GradientTransformationExtraArgs]:
    """The published forms of online data mixing, and the averaged one with a larger loss and a floor."""
    odm = functools.partial(mix_by_odm, warmup_steps=config.warmup)
    return {
        "ODM, averaged": odm("averaged", decay=config.decay),
        "ODM, perplexity": odm("perplexity", decay=config.decay),
        "ODM, EXP3": odm("cumulative", loss_scale=0.1),
        "ODM, averaged, loss x 15, floor .03": odm("averaged", decay=config.decay, loss_scale=15.0, floor=0.03),
    }


def online_arms(config: OnlineConfig, noise: bool) -> dict[str, Callable[[int], Any]]:
    """All arms, as functions of the seed; those of fixed mixtures share one program. With noise, two are fixed."""
    number = len(DOMAINS) + noise
    fixed = Trainer(config, mixture(number, config.batch_size, optax.identity()))

    def fixed_arm(mixture_of: Callable[[Any], jax.Array], seed: int) -> Any:
        domains = domains_of(config, seed, noise)
        return fixed(domains, seed, mixture_of(domains.sizes))

    def online_arm(trainer: Trainer, seed: int) -> Any:
        return trainer(domains_of(config, seed, noise), seed)

    chosen = {name: of for name, of in fixed_mixtures(config).items() if not noise or name in (NATURAL, "uniform")}
    arms = {name: functools.partial(fixed_arm, of) for name, of in chosen.items()}
    for name, rule in online_rules(config).items():
        arms[name] = functools.partial(online_arm, Trainer(config, mixture(number, config.batch_size, rule)))
    return arms


def compare_online(config: OnlineConfig, noise: bool) -> list[Record]:
    """Train all arms, and report at equal tokens, at equal time, and for some arms with more seeds."""
    arms = online_arms(config, noise)
    records = compare(config, arms, xlabel="steps", summary=summarize, baseline=NATURAL, better=BETTER)
    compare_at_equal_time(config, records, NATURAL, BETTER)
    if config.more_seeds and not config.arms:
        compare(
            dataclasses.replace(config, seeds=config.seeds + config.more_seeds, out=f"{config.out}/more_seeds"),
            {name: functools.partial(_again, records, name, arms[name]) for name in WITH_MORE_SEEDS},
            xlabel="steps",
            summary=summarize,
            baseline={"uniform": NATURAL, "ODM, perplexity": "uniform"},
            better=BETTER,
        )
    return records


def _again(records: list[Record], name: str, arm: Callable[[int], Any], seed: int) -> Any:
    """What an arm gave, if it was run with this seed."""
    made = {r["step"]: r["metrics"] for r in records if (r["arm"], r["seed"]) == (name, seed)}
    return made or arm(seed)
