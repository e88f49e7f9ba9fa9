"""Mixtures of twelve text domains, fixed by their sizes or moved by training losses, at equal tokens and equal time."""

from dataclasses import dataclass

from experiments.mixing._online_arms import OnlineConfig, compare_online


@dataclass(frozen=True)
class Config(OnlineConfig):
    """Hyper-parameters; the arms differ in the mixture alone."""


def main(config: Config):
    """Train all arms, and report."""
    return compare_online(config, noise=False)
