"""Mixtures of twelve text domains, fixed by their sizes or moved by training losses, at equal tokens and equal time.

Claim: drawing more of the domains of high training loss (ODM) reaches a loss in fewer steps than any fixed mixture.
Data: windows of 32 bytes of twelve domains: C, prose and Python of the Python installation, four sources of rated
  sentences, four groups of newsgroups, spam mails. A run may draw a sixteenth of each domain, from 522 windows to 19
  thousand; losses are measured on 256 windows of each, of documents that were held out. `python -m experiments.datasets
  fetch sentiment newsgroups spam`
Command: `python -m experiments online_mixing`
Minutes: 4 on one CPU core
Expected: mean ± standard error over 3 seeds, after 600 steps of 64 windows; nats a byte, "mean" over the domains and
  "worst" of them, which is spam in every run; differences to natural proportions, paired by seed; how often the
  smallest domain was seen

  | arm                                 | mean          | worst         | mean - natural | worst - natural | epochs |
  |-------------------------------------|---------------|---------------|----------------|-----------------|--------|
  | natural                             | 2.440 ± 0.004 | 2.967 ± 0.021 |                |                 | 0.5    |
  | uniform                             | 2.374 ± 0.002 | 3.276 ± 0.014 | -0.066 ± 0.005 | +0.309 ± 0.011  | 6.1    |
  | temperature 2                       | 2.393 ± 0.004 | 3.072 ± 0.022 | -0.047 ± 0.000 | +0.105 ± 0.007  | 2.1    |
  | UniMax, 4 epochs                    | 2.378 ± 0.004 | 3.260 ± 0.015 | -0.062 ± 0.000 | +0.293 ± 0.007  | 4.0    |
  | ODM, averaged                       | 2.375 ± 0.003 | 3.243 ± 0.009 | -0.065 ± 0.003 | +0.275 ± 0.016  | 6.1    |
  | ODM, perplexity                     | 2.375 ± 0.004 | 3.146 ± 0.011 | -0.065 ± 0.004 | +0.179 ± 0.010  | 6.2    |
  | ODM, EXP3                           | 2.376 ± 0.004 | 3.211 ± 0.017 | -0.064 ± 0.001 | +0.243 ± 0.004  | 6.2    |
  | ODM, averaged, loss x 15, floor .03 | 2.377 ± 0.005 | 3.208 ± 0.006 | -0.063 ± 0.004 | +0.240 ± 0.015  | 6.1    |

  With 5 seeds, uniform less natural: mean -0.066 ± 0.004, worst +0.305 ± 0.006; "ODM, perplexity" less uniform: mean
  +0.002 ± 0.004, worst -0.129 ± 0.006. On the mean, UniMax and all forms of ODM lie within two standard errors of the
  uniform mixture; temperature 2 and natural proportions do not. On the worst domain all are below uniform, by more than
  two standard errors, and all are above natural proportions: the hardest domain is here also the largest, so the
  uniform mixture takes its tokens away, and ODM gives a part of them back.
  The averaged form stays near the uniform mixture: spam is 10.1 % of the windows of the first hundred steps and 9.1 %
  of the last; with the loss x 15 and a floor of .03 it goes from 11.2 % to 10.6 %, with perplexities from 11.6 % to
  13.6 %.
  Equal time (equal_time): a step costs 8 ms in every arm, and the sampler with its feedback is not measurable beside
  it: the least times of a step differ by up to 4 %, also between arms that run one program. Read off the curves at the
  time of natural proportions, no mean moves by more than 0.007.
Verdict: partly: ODM beats natural proportions on the mean, as every mixture near the uniform one does; it does not beat
  the uniform mixture on the mean, only on the worst domain.
Tuning: Adam's rate {1e-3, 3e-3, 1e-2, 2e-2} for natural proportions and, without the last, the uniform mixture, with
  --validate, seed 10 and two blocks; 1e-2 was best for both. Decay .9, warm-up of 1 % and the other numbers of ODM are
  the published ones. Windows of a batch are drawn from several domains, systematically; the published code draws one
  domain for each micro-batch.
Reference: Albalak et al., Efficient online data mixing for language model pre-training, 2023 (arXiv 2312.02406).
"""

from dataclasses import dataclass

from experiments.mixing._online_arms import OnlineConfig, compare_online


@dataclass(frozen=True)
class Config(OnlineConfig):
    """Hyper-parameters; the arms differ in the mixture alone."""


def main(config: Config):
    """Train all arms, and report."""
    return compare_online(config, noise=False)
