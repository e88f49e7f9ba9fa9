"""Mixtures of twelve text domains and one of random bytes, from which nothing can be learned."""

from dataclasses import dataclass

from experiments.engine import compare
from experiments.mixing._domain_training import compare_at_equal_time, summarize
from experiments.mixing._online_arms import NATURAL, OnlineConfig, online_arms

BETTER = {"mean_loss": "lower", "worst_loss": "lower"}


@dataclass(frozen=True)
class Config(OnlineConfig):
    """Hyper-parameters; the arms differ in the mixture alone."""

    out: str = "runs/online_mixing_with_noise"


def main(config: Config):
    """Train all arms, and report at equal tokens and at equal time."""
    arms = online_arms(config, noise=True)
    records = compare(config, arms, xlabel="steps", summary=summarize, baseline=NATURAL, better=BETTER)
    compare_at_equal_time(config, records, NATURAL, BETTER)
    return records
