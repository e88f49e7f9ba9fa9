"""The power schedule over two horizons with one setting, against constant rates tuned for each.

Claim: the best constant rate falls with the length of the run, about as its inverse square root; one power schedule,
  tuned on the short run, is as good as the constant rate that is tuned for the long one.
Data: twelve text domains in windows of 32 bytes, mixed evenly; losses are means over domains on 512 held-out windows of
  each, in nats a byte. `python -m experiments.datasets fetch python_text sentiment newsgroups spam`.
  Runs have 300 and 2400 steps of 32 windows, 30 of them warm-up, and end in a 1-sqrt decay over their last tenth. No
  run sees a window twice.
Command: `python -m experiments power_horizons`
Minutes: TODO
Expected: TODO
Verdict: TODO
Tuning: TODO
Reference: Shen et al., Power scheduler: a batch size and token number agnostic learning rate scheduler, 2024
  (arXiv 2408.13359).
"""

import functools
from dataclasses import dataclass

import optax

from experiments.engine import compare
from experiments.schedules._byte_branches import Branches
from experiments.shared import byte_runs
from minibatch_jax.schedules import decay_from, power_schedule, warmup_stable_decay

SIZE = byte_runs.Size(depth=1)
ARMS = {
    "constant, tuned on the short run": ("constant", 8e-3),
    "constant, tuned on the long run": ("constant", 8e-3),
    "power, tuned on the short run": ("power", 0.16),
}
"""the kind of schedule, and its rate or its factor a"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the learning rate of each step alone."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/power_horizons"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    short: int = 300
    long: int = 2400
    warmup: int = 30
    chunk: int = 30
    decay: float = 0.1
    """of each horizon"""
    max_rate: float = 0.032
    """of the power schedule"""
    kind: str = ""
    """"constant" or "power", with the factors to try: for tuning"""
    factors: tuple[float, ...] = ()
    validate: bool = False
    """hold out a part of the training documents: for tuning"""


def main(config: Config):
    """Train all arms with all seeds to both horizons, and report."""
    settings = {f"{config.kind} {f}": (config.kind, f) for f in config.factors} if config.factors else ARMS
    ends = {"short_loss": config.short, "long_loss": config.long}
    starts = {name: steps - round(config.decay * steps) for name, steps in ends.items()}
    options = {"chunk": config.chunk, "validate": config.validate, "size": SIZE}
    branches = {
        kind: Branches(functools.partial(stable, config, kind), sorted(starts.values()), **options)
        for kind in {kind for kind, _ in settings.values()}
    }

    def arm(name: str, seed: int) -> dict[str, float]:
        kind, factor = settings[name]

        def loss(metric):
            start, steps = starts[metric], ends[metric]
            schedule = decay_from(stable(config, kind, factor), start, steps - start)
            return branches[kind].losses(seed, factor, schedule, start, steps)

        return {metric: loss(metric) for metric in ends}

    arms = {name: functools.partial(arm, name) for name in settings}
    return compare(config, arms, baseline=next(iter(arms)), better=dict.fromkeys(ends, "lower"))


def stable(config: Config, kind: str, factor: float) -> optax.Schedule:
    """The learning rate before the decay."""
    if kind == "constant":
        return warmup_stable_decay(factor, config.warmup, 0, 0)
    return power_schedule(
        config.max_rate,
        a=factor,
        batch_size=SIZE.batch_size,
        sequence_length=byte_runs.LENGTH,
        warmup_steps=config.warmup,
    )
