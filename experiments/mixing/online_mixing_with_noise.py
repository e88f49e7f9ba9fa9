"""Mixtures of twelve text domains and one of random bytes, from which nothing can be learned.

Claim: reward by loss prefers noise: the forms of ODM spend more tokens on a domain of random bytes than a uniform
  mixture does, and the real domains lose by it.
Data: that of `online_mixing` and a thirteenth domain of random bytes, as large as the twelve are on average; losses are
  those of the twelve. `python -m experiments.datasets fetch sentiment newsgroups spam`
Command: `python -m experiments online_mixing_with_noise`
Minutes: 3 on one CPU core
Expected: mean ± standard error over 3 seeds, after 600 steps of 64 windows; nats a byte, "mean" over the real domains
  and "worst" of them; differences to natural proportions, paired by seed; share of all windows that are noise

  | arm                                 | mean          | worst         | mean - natural | worst - natural | noise |
  |-------------------------------------|---------------|---------------|----------------|-----------------|-------|
  | natural                             | 2.446 ± 0.005 | 2.966 ± 0.015 |                |                 | 0.077 |
  | uniform                             | 2.378 ± 0.006 | 3.282 ± 0.020 | -0.067 ± 0.003 | +0.316 ± 0.014  | 0.077 |
  | ODM, averaged                       | 2.389 ± 0.002 | 3.275 ± 0.014 | -0.056 ± 0.007 | +0.309 ± 0.002  | 0.104 |
  | ODM, perplexity                     | 2.466 ± 0.001 | 3.283 ± 0.013 | +0.020 ± 0.004 | +0.317 ± 0.003  | 0.387 |
  | ODM, EXP3                           | 2.397 ± 0.001 | 3.245 ± 0.016 | -0.048 ± 0.005 | +0.279 ± 0.004  | 0.155 |
  | ODM, averaged, loss x 15, floor .03 | 2.393 ± 0.001 | 3.242 ± 0.018 | -0.052 ± 0.005 | +0.276 ± 0.004  | 0.143 |

  All forms of ODM draw more noise than 1/13, the one with perplexities five times as much (49 % of the last hundred
  steps), so that its real domains end above those of natural proportions. On the mean, all but the averaged form are
  behind the uniform mixture by more than two standard errors (0.015 to 0.087, paired); the averaged form, which stays
  near it, by 0.011, within two. On the worst domain EXP3 and the form with a floor stay ahead of the uniform mixture
  by 0.04, the other two tie with it.
  Equal time (equal_time): the same, as a step costs no more than with natural proportions.
Verdict: partly: all forms spend more tokens on noise than a uniform mixture; that the real domains lose by it is beyond
  chance for all but the averaged form.
Tuning: none; the numbers are those of `online_mixing`.
Reference: Albalak et al., Efficient online data mixing for language model pre-training, 2023 (arXiv 2312.02406).
"""

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
