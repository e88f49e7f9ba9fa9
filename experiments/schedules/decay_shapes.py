"""Decays at the end of a stable run, of several lengths and shapes, against a cosine over the whole run.

Claim: a stable learning rate with a decay over its last 10 % ends as low as a cosine that was planned for the length of
  the run, and both far below a constant rate; 2.5 % are not enough; 1-sqrt is the best shape.
Data: twelve text domains in windows of 32 bytes, mixed evenly; the loss is the mean over domains on 512 held-out
  windows of each, in nats a byte. `python -m experiments.datasets fetch python_text sentiment newsgroups spam`.
  A run has 600 steps of 32 windows, 30 of them warm-up. With one seed all arms but the cosine share the stable part of
  one run and branch off it.
Command: `python -m experiments decay_shapes`
Minutes: TODO
Expected: TODO
Verdict: TODO
Tuning: TODO
Reference: Hu et al., MiniCPM: unveiling the potential of small language models, 2024 (arXiv 2404.06395); Hägele et al.,
  Scaling laws and compute-optimal training beyond fixed training durations, 2024 (arXiv 2405.18392).
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import optax

from experiments.engine import compare
from experiments.schedules._byte_branches import Branches
from minibatch_jax.schedules import decay_from, warmup_stable_decay


class Decay(NamedTuple):
    """Of which length, as a fraction of the run, and shape."""

    fraction: float
    shape: str = "1-sqrt"


COSINE = Decay(1.0, "cosine")
"""from the end of the warm-up on"""
DECAYS = {
    "constant": Decay(0.0),
    "cosine": COSINE,
    "1-sqrt, 2.5 %": Decay(0.025),
    "1-sqrt, 10 %": Decay(0.1),
    "1-sqrt, 20 %": Decay(0.2),
    "linear, 10 %": Decay(0.1, "linear"),
    "cosine, 10 %": Decay(0.1, "cosine"),
    "exponential, 10 %": Decay(0.1, "exponential"),
}
PEAKS = {"constant": 8e-3, "cosine": 8e-3}
"""learning rate tuned for each; those not named have that of "1-sqrt, 10 %" """
LOWEST = 0.02
"""of the peak, where an exponential decay ends"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the learning rate of each step alone."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/decay_shapes"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    steps: int = 600
    warmup: int = 30
    chunk: int = 15
    learning_rate: float | None = None
    """highest rate; None: as tuned for each arm"""
    validate: bool = False
    """hold out a part of the training documents: for tuning"""


def main(config: Config):
    """Train all arms with all seeds, and report."""

    def stable(rate):
        return warmup_stable_decay(rate, config.warmup, 0, 0)

    starts = {name: start_of(config, decay) for name, decay in DECAYS.items()}
    branches = Branches(stable, sorted(set(starts.values())), chunk=config.chunk, validate=config.validate)

    def arm(name: str, seed: int) -> dict[str, float]:
        rate = config.learning_rate or PEAKS.get(name, 8e-3)
        schedule = schedule_of(config, DECAYS[name], stable(rate), rate)
        return {"loss": branches.losses(seed, rate, schedule, starts[name], config.steps)}

    arms = {name: functools.partial(arm, name) for name in DECAYS}
    return compare(config, arms, baseline="cosine", better={"loss": "lower"})


def start_of(config: Config, decay: Decay) -> int:
    """The last checkpoint of the stable run that an arm can go on from."""
    return 0 if decay == COSINE else config.steps - max(round(decay.fraction * config.steps), config.chunk)


def schedule_of(config: Config, decay: Decay, stable: optax.Schedule, rate: float) -> optax.Schedule:
    """The learning rate of an arm."""
    if decay == COSINE:
        return decay_from(stable, config.warmup, config.steps - config.warmup, decay.shape)
    length = round(decay.fraction * config.steps)
    end = LOWEST * rate if decay.shape == "exponential" else 0.0
    return decay_from(stable, config.steps - length, length, decay.shape, end_value=end) if length else stable
