"""The power schedule over two horizons with one setting, against constant rates tuned for each.

Claim: the best constant rate falls with the length of the run, about as its inverse square root; one power schedule,
  tuned on the short run, is as good as the constant rate that is tuned for the long one.
Data: twelve text domains in windows of 32 bytes, mixed evenly; losses are means over domains on 512 held-out windows of
  each, in nats a byte. `python -m experiments.datasets fetch python_text sentiment newsgroups spam`.
  Runs have 300 and 2400 steps of 32 windows, 30 of them warm-up, and end in a 1-sqrt decay over their last tenth. No
  run sees a window twice.
Command: `python -m experiments power_horizons`
Minutes: 3 on one CPU core
Expected: mean ± standard error over 3 seeds

  arm                              short loss     long loss
  constant, best on the short run  2.615 ± 0.006  2.287 ± 0.003
  constant, best on the long run   2.656 ± 0.003  2.265 ± 0.004
  power, at most 0.032             2.667 ± 0.016  2.308 ± 0.008
  power, at most 0.016             2.615 ± 0.006  2.279 ± 0.002

  The trend holds: the best constant rate is 16e-3 on the short run and 8e-3 on one of eight times the length, a slope
  of -1/3 instead of -1/2, in powers of two. Each is worse on the other run, by 0.041 and 0.022.
  The power schedule through the best rate of the short run, with that rate as its cap, is the same on the short run.
  On the long one it gains 0.008 for nothing (-0.008 ± 0.002), a third of what tuning there gains, and stays behind the
  rate tuned there by 0.014, with every seed. With a cap of 0.032 it is behind that constant rate on both runs, by two
  standard errors: the cap must be tuned, too.
Verdict: partly: it is better on the long run than the rate tuned on the short one, but not as good as one tuned for it
Tuning: with seed 10 and --validate, constant rates {2e-3, 4e-3, 8e-3, 16e-3, 32e-3}: losses on the short run 2.782,
  2.700, 2.611, 2.587, 2.651, on the long one 2.330, 2.276, 2.256, 2.273, 2.398. Power, at most 0.032, with a in {0.04,
  0.08, 0.16, 0.32, 0.64}: 2.727, 2.646, 2.624, 2.621, 2.651 and 2.395, 2.314, 2.278, 2.282, 2.316; 0.32 is the best on
  the short run. The law through 16e-3 at the end of the short run has the same a, 0.32: with the cap of 16e-3 the rate
  begins to fall where the short run ends.
Reference: Shen et al., Power scheduler: a batch size and token number agnostic learning rate scheduler, 2024
  (arXiv 2408.13359).
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import optax

from experiments.engine import compare
from experiments.schedules._byte_branches import Branches
from experiments.shared import byte_runs
from minibatch_jax.schedules import decay_from, power_schedule, warmup_stable_decay

SIZE = byte_runs.Size(depth=1)


class Setting(NamedTuple):
    """A schedule before the decay: "constant" at a factor, or "power" with a = factor, and its highest rate."""

    kind: str
    factor: float
    max_rate: float = 0.032


ARMS = {
    "constant, best on the short run": Setting("constant", 16e-3),
    "constant, best on the long run": Setting("constant", 8e-3),
    "power, at most 0.032": Setting("power", 0.32),
    "power, at most 0.016": Setting("power", 0.32, 0.016),
}


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
    kind: str = ""
    """"constant" or "power", with the factors to try: for tuning"""
    factors: tuple[float, ...] = ()
    validate: bool = False
    """hold out a part of the training documents: for tuning"""


def main(config: Config):
    """Train all arms with all seeds to both horizons, and report."""
    settings = {f"{config.kind} {f}": Setting(config.kind, f) for f in config.factors} or ARMS
    ends = {"short_loss": config.short, "long_loss": config.long}
    starts = {name: steps - round(config.decay * steps) for name, steps in ends.items()}
    before = functools.partial(stable, config)
    branches = Branches(before, sorted(starts.values()), chunk=config.chunk, validate=config.validate, size=SIZE)

    def arm(name: str, seed: int) -> dict[str, float]:
        setting = settings[name]
        decays = {metric: decay_from(before(setting), starts[metric], ends[metric] - starts[metric]) for metric in ends}
        return {m: branches.losses(seed, setting, decays[m], starts[m], ends[m]) for m in ends}

    arms = {name: functools.partial(arm, name) for name in settings}
    return compare(config, arms, baseline=next(iter(arms)), better=dict.fromkeys(ends, "lower"))


def stable(config: Config, setting: Setting) -> optax.Schedule:
    """The learning rate before the decay."""
    if setting.kind == "constant":
        return warmup_stable_decay(setting.factor, config.warmup, 0, 0)
    return power_schedule(
        setting.max_rate,
        a=setting.factor,
        batch_size=SIZE.batch_size,
        sequence_length=byte_runs.LENGTH,
        warmup_steps=config.warmup,
    )
