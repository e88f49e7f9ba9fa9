"""Mixtures of twelve text domains and one of random bytes, from which nothing can be learned."""

from dataclasses import dataclass

from experiments.mixing._online_arms import OnlineConfig, compare_online


@dataclass(frozen=True)
class Config(OnlineConfig):
    """Hyper-parameters; the arms differ in the mixture alone."""

    out: str = "runs/online_mixing_with_noise"
    more_seeds: tuple[int, ...] = ()


def main(config: Config):
    """Train all arms, and report."""
    return compare_online(config, noise=True)
