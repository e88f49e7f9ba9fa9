"""Judge data by the decay phase of one stable run with it mixed in, in place of a full run for each candidate.

Claim: the losses after short decays from one stable checkpoint, each with a candidate mixed in, rank candidates nearly
  as full runs with them do, at a fraction of the steps, and better than short full runs of the same number of steps.
Data: twelve text domains in windows of 32 bytes, mixed uniformly. A candidate is one of the domains with 30 % of the
  batch on top, the target another domain's loss on 512 held-out windows, in nats a byte: 12 targets, 11 candidates for
  each. `python -m experiments.datasets fetch python_text sentiment newsgroups spam`.
  The truth is the mean of full runs of 600 steps with the other seeds. "full runs" are those of one seed: what the
  truth agrees with at best. "regret" is the true loss of the candidate that looks best, less that of the best one.
  "no training" ranks by the stable checkpoint's loss on the candidate, the lowest first, whatever the target.
Command: `python -m experiments judge_by_decay`
Minutes: 8 on one CPU core
Expected: mean ± standard error over 4 seeds

  arm                   rank correlation  regret             steps
  short runs            0.692 ± 0.028     0.0109 ± 0.0016    1260
  decays of one run     0.834 ± 0.012     0.0031 ± 0.0010    1260
  same steps, no decay  0.729 ± 0.029     0.0123 ± 0.0017    1260
  no training           0.552 ± 0.013     0.0271 ± 0.0008     540
  full runs             0.848 ± 0.014     0.0026 ± 0.0007    7200

  Reproduced: with 17 % of the steps, decays agree with the full runs of other seeds as well as full runs do. Paired by
  seed, they are ahead of short runs of the same cost by 0.142 ± 0.038 in rank correlation. The decay itself matters:
  they are ahead of the same steps without it by 0.105, and have a quarter of the regret. The pairs are not quite
  independent, as the four truths share runs.
Verdict: partly: the decays rank as full runs do, but the short runs they beat had a learning rate too low for them
Tuning: none here. The learning rate is that of two_phase_mixture, which was tuned for runs of 600 steps of the same
  model. Short runs would prefer 16e-3, with which their mean loss without a candidate is 0.016 lower (2.848 against
  2.864 on validation texts, seeds 10 and 11). The decay is the last tenth, and 30 % the first share tried.
Reference: Hu et al., MiniCPM: unveiling the potential of small language models, 2024 (arXiv 2404.06395); Blakeney et
  al., Does your data spark joy? Performance gains from domain upsampling at the end of training, 2024
  (arXiv 2406.03476).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments.engine import compare
from experiments.shared import byte_runs
from experiments.shared.text_domains import DOMAINS, by_domain, text_domains
from minibatch_jax.schedules import decay_from, warmup_stable_decay

K = len(DOMAINS)


@dataclass(frozen=True)
class Config:
    """Hyper-parameters of the runs and of the candidates."""

    seeds: tuple[int, ...] = (0, 1, 2, 3)
    out: str = "runs/judge_by_decay"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    steps: int = 600
    decay_steps: int = 60
    warmup: int = 30
    share: float = 0.3
    """of a candidate, on top of its part of the base mixture"""
    learning_rate: float = 8e-3
    windows: int = 8000
    """of each domain to train on; a run sees none twice"""


class Judge:
    """The losses `[K, K]` of each domain (column) with each candidate (row), by different ways to get them."""

    def __init__(self, config: Config, splits: dict[str, Any]):
        self.config = config
        self.tokens, self.domain = (jnp.asarray(splits["train"][column]) for column in ("tokens", "domain"))
        self.held_out = jnp.asarray(by_domain(splits["validation"]))
        self.candidates = (1 - config.share) / K + config.share * jnp.eye(K)
        self.stable_steps = config.steps - config.decay_steps
        self.full = functools.cache(lambda seed: self.runs(seed, config.steps))
        self.checkpoint = functools.cache(self._checkpoint)

    def full_runs(self, seed: int) -> np.ndarray:
        """A run from the start for each candidate."""
        return self.full(seed)

    def short_runs(self, seed: int) -> np.ndarray:
        """Runs from the start that take as many steps together as one stable run and its decays."""
        return self.runs(seed, self.stable_steps // K + self.config.decay_steps)

    def runs(self, seed: int, steps: int) -> np.ndarray:
        """A run of these steps for each candidate, with the warm-up and the decay in proportion to its length."""
        warmup, decay = (round(n * steps / self.config.steps) for n in (self.config.warmup, self.config.decay_steps))
        schedule = warmup_stable_decay(self.config.learning_rate, warmup, steps - warmup - decay, decay)
        start = byte_runs.start_run(seed, self.domain, K)
        return self.after(start, self.candidates, byte_runs.values(schedule, steps))

    def decays(self, seed: int) -> np.ndarray:
        """A decay from the stable run for each candidate."""
        return self.branches(seed, decay_from(self.stable, self.stable_steps, self.config.decay_steps))

    def without_decay(self, seed: int) -> np.ndarray:
        """As many further steps for each candidate, at the stable rate."""
        return self.branches(seed, self.stable)

    def no_training(self, seed: int) -> np.ndarray:
        """What the stable checkpoint loses on each candidate, the same for all targets."""
        losses = byte_runs.held_out_losses(self.checkpoint(seed).params, self.held_out)
        return np.tile(np.asarray(losses)[:, None], (1, K))

    def branches(self, seed: int, schedule: Any) -> np.ndarray:
        """The last steps with each candidate, from the stable checkpoint on."""
        rates = byte_runs.values(schedule, self.config.steps)[self.stable_steps :]
        return self.after(self.checkpoint(seed), self.candidates, rates)

    @property
    def stable(self) -> Any:
        """The learning rate of the stable run."""
        return warmup_stable_decay(self.config.learning_rate, self.config.warmup, 0, 0)

    def _checkpoint(self, seed: int) -> byte_runs.Run:
        start = byte_runs.start_run(seed, self.domain, K)
        mixtures = jnp.full((self.stable_steps, K), 1 / K)
        return byte_runs.train(start, self.tokens, mixtures, byte_runs.values(self.stable, self.stable_steps))

    def after(self, run: byte_runs.Run, mixtures: jax.Array, rates: jax.Array) -> np.ndarray:
        """Losses after these steps with each of the mixtures, `[mixtures, K]`."""
        ends = (
            byte_runs.train(run, self.tokens, jnp.tile(mixture, (len(rates), 1)), rates).params for mixture in mixtures
        )
        return np.stack([byte_runs.held_out_losses(params, self.held_out) for params in ends])


def main(config: Config):
    """Judge all candidates in each way, and compare with the full runs of the other seeds."""
    judge = Judge(config, text_domains(byte_runs.LENGTH, per_domain=config.windows))
    stable, decay = judge.stable_steps, config.decay_steps
    ways: dict[str, tuple[Callable[[int], np.ndarray], int]] = {
        "short runs": (judge.short_runs, K * (stable // K + decay)),
        "decays of one run": (judge.decays, stable + K * decay),
        "same steps, no decay": (judge.without_decay, stable + K * decay),
        "no training": (judge.no_training, stable),
        "full runs": (judge.full_runs, K * config.steps),
    }

    def arm(name: str, seed: int) -> dict[str, float]:
        way, steps = ways[name]
        others = [judge.full(other) for other in config.seeds if other != seed]
        return {**agreement(way(seed), np.mean(others, axis=0)), "steps": steps}

    arms = {name: functools.partial(arm, name) for name in ways}
    return compare(
        config, arms, baseline="short runs", better={"rank_correlation": "higher", "regret": "lower", "steps": "lower"}
    )


def agreement(judged: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Means over targets (columns): the rank correlation over the other candidates (rows), and the regret."""
    correlations, regrets = [], []
    for target in range(true.shape[1]):
        others = np.arange(len(true)) != target
        guess, truth = judged[others, target], true[others, target]
        correlations.append(np.corrcoef(stats.rankdata(guess), stats.rankdata(truth))[0, 1])
        regrets.append(truth[np.argmin(guess)] - truth.min())
    return {"rank_correlation": float(np.mean(correlations)), "regret": float(np.mean(regrets))}
