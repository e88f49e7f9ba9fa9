"""CREST against random batches, at equal updates and at equal measured time, and how hard the chosen examples are.

Claim: weighted coresets of random subsets, chosen anew when a quadratic model of the loss is off by a tenth, train to
  nearly the accuracy of full training with 10 % of its gradients, above random batches with as many, and 1.7 to 2.5
  times faster than full training; the examples that they choose are easy at first, and harder later.
Data: Fashion-MNIST at 28x28 pixels, 12 000 images to train on and 2500 to test on. `python -m experiments.datasets
  fetch fashion_mnist`.
Command: `python -m experiments crest`
Minutes: 3 on one CPU core
Expected: mean ± standard error over 3 seeds, gains over random batches in points, paired by seed; CPU seconds on one
  core of a busy machine, for training with selection, without compilation and evaluation. "random, same time" takes as
  many steps as fit in the time of CREST, as measured before:

  | arm                | accuracy      | gain      | to 75 %     | to 80 %     | in all      |
  |--------------------|---------------|-----------|-------------|-------------|-------------|
  | full               | 0.864 ± 0.003 | 5.7 ± 0.2 | 0.24 ± 0.08 | 0.35 ± 0.02 | 3.48 ± 0.20 |
  | random 10%         | 0.807 ± 0.003 |           | 0.12 ± 0.02 | 0.32 ± 0.05 | 0.37 ± 0.03 |
  | random, same time  | 0.858 ± 0.000 | 5.1 ± 0.3 | 0.19 ± 0.04 | 0.34 ± 0.02 | 1.54 ± 0.11 |
  | CREST 10%          | 0.812 ± 0.007 | 0.6 ± 0.9 | 0.47 ± 0.08 | 1.03 ± 0.08 | 1.68 ± 0.06 |
  | fresh coresets 10% | 0.830 ± 0.001 | 2.3 ± 0.4 | 0.24 ± 0.03 | 0.51 ± 0.04 | 1.17 ± 0.05 |

  Difficulty of the examples that train, by quarter of the run: the share of ten checkpoints of another run on random
  batches, with a tenth of the steps of full training, at which an example is wrong. "learned" are those at the end:

  | arm                | first quarter | second        | third         | last          | learned       |
  |--------------------|---------------|---------------|---------------|---------------|---------------|
  | random 10%         | 0.219 ± 0.003 | 0.224 ± 0.002 | 0.219 ± 0.004 | 0.228 ± 0.004 |               |
  | CREST 10%          | 0.289 ± 0.010 | 0.356 ± 0.004 | 0.372 ± 0.005 | 0.382 ± 0.009 | 0.031 ± 0.005 |
  | fresh coresets 10% | 0.296 ± 0.004 | 0.370 ± 0.007 | 0.393 ± 0.002 | 0.395 ± 0.005 | 0.132 ± 0.008 |

  Reproduced: what coresets hold gets harder over time. At equal updates "fresh coresets", chosen anew in every step and
  without a model, beat random batches. The squared error of the gradient of a coreset is 0.43 of that of a random batch
  (mean over full training), and without the medoids' weights 2.8 of it.
  Not reproduced: CREST itself is better than random batches at equal updates by no more than chance; perhaps since its
  coresets serve several steps. 78 % of its step is scoring: it passes 6.8 examples forward, and differentiates 0.45 in
  probes, for each that trains. Random batches in the same time are five points better, and nearly as good as full
  training in less than half of its time.
Verdict: partly: chosen examples get harder, and new coresets in every step beat random batches at equal updates; CREST
  does not, and at equal time random batches are far better.
Choices: of each class 30 random examples to choose 6 from; to score less, 2 coresets for each step of the interval, not
  5, and an interval 4 times the published one; the first twentieth of the steps is random.
Tuning: none; Adam's rate is that of `hard_batches`, for all arms.
Reference: Yang, Kang & Mirzasoleiman, Towards sustainable learning: coresets for data-efficient deep learning, 2023
  (arXiv 2306.01244).
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx

from experiments.selection._crest_arms import race
from experiments.shared.backbones import PatchMixer, functional
from experiments.shared.fashion import fashion

CLASSES = 10


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in their batches and in the number of steps."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/crest"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    examples: int = 12_000
    test_examples: int = 2500
    steps: int = 2000
    """of full training: 10 epochs"""
    tenth: int = 200
    """steps of random batches, CREST and fresh coresets"""
    same_time: int = 880
    """steps on random batches in the time of CREST, as measured"""
    evaluations: int = 20
    subset: int = 30
    """examples of a class in the random subsets that coresets are chosen from"""
    medoids: int = 6
    """examples of a class in a coreset; batches of all arms have ten times as many"""
    coresets_per_step: int = 2
    multiplier: float = 4.0
    """of the interval between checks of the model"""
    patch: int = 7
    width: int = 32
    depth: int = 2
    random_rate: float = 6e-3
    coreset_rate: float = 6e-3
    targets: tuple[float, ...] = (0.75, 0.8, 0.85)
    """test accuracies to reach"""
    validate: bool = False
    """test on images left out of the training set: for tuning"""


def main(config: Config):
    """Train all arms and report."""
    sizes = {"patch": config.patch, "width": config.width, "depth": config.depth}

    def params(seed):
        return functional(PatchMixer(CLASSES, **sizes, rngs=nnx.Rngs(seed)))[1]

    logits = functional(PatchMixer(CLASSES, **sizes, rngs=nnx.Rngs(0)))[0]
    return race(config, images(config), logits, params, CLASSES, errors=True)


def images(config: Config) -> dict[str, Any]:
    """The first rows of both splits, with images `[N, 28, 28, 1]` as `input`."""
    splits, counts = fashion(1, config.validate), (config.examples, config.test_examples)
    return {
        name: {
            "input": jnp.asarray(split["image"][:count].reshape(-1, 28, 28, 1)),
            "label": jnp.asarray(split["label"][:count]),
        }
        for count, (name, split) in zip(counts, splits.items())
    }
