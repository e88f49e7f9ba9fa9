"""Steps to a goal by batch size: perfect scaling, diminishing returns, a plateau, and where the noise scale puts them.

Claim: with the learning rate tuned for each batch size, twice the batch halves the steps to a goal only up to a point,
  and at last saves nothing (Shallue et al.); the gradient noise scale, measured along one run, says where within an
  order of magnitude (McCandlish et al.).
Data: Fashion-MNIST at 14x14 pixels, 50 000 images to train on and 2000 others for the goal; an MLP with 128 hidden
  units, and SGD at a constant rate. The goal is the held-out loss, of an average of parameters over about 2500
  examples, that a batch of 16 has after 40 000 examples at its best rate: 0.396. `python -m experiments.datasets fetch
  fashion_mnist`
Command: `python -m experiments critical_batch`
Minutes: 3 on one CPU core
Expected: mean ± standard error over 3 seeds. Steps to the goal, interpolated between evaluations 6 % apart; the goal
  counts when two evaluations in a row reach it:

  | batch | rate | steps | examples, thousands | perfect scaling, steps |
  |-------|------|-------|---------------------|------------------------|
  | 16    | 1/8  | 2463  | 39                  | 2463                   |
  | 32    | 1/4  | 1234  | 39                  | 1232                   |
  | 64    | 1/4  | 694   | 44                  | 616                    |
  | 128   | 1/2  | 453   | 58                  | 308                    |
  | 256   | 1/2  | 337   | 86                  | 154                    |
  | 512   | 1/2  | 304   | 155                 | 77                     |
  | 1024  | 1/2  | 278   | 285                 | 38                     |
  | 2048  | 1/2  | 288   | 590                 | 19                     |
  | 4096  | 1/2  | 304   | 1246                | 10                     |
  | 8192  | 1/2  | 330   | 2701                | 5                      |

  Fit of a + b / B: a is 270.1 ± 3.7 steps and b is 29812 ± 881 examples, with an error of 0.110 ± 0.012 in log S.
  The critical batch size, which by the fit sees 20 % more examples than a batch of 16, is 41.29 ± 0.81 images; b / a is
  110.5 ± 4.0 images.
  Reproduced: the three regimes. Scaling is perfect to within 20 % up to 32 or 64; from 1024 on a larger batch saves
  nothing. The last batch sizes need even more steps: there the average over 2500 examples is one over a step or less.
  Reproduced: the noise scale along one run with batches of 256, from 8 micro-batches, has a median of 152 ± 13 images,
  b / a times 2 to the power of 0.45 ± 0.10 (log2). Steps that are predicted from those of a batch of 16 by the noise
  scale are off by 0.231 ± 0.014 in log2, the mean over batch sizes; those of perfect scaling by 2.422 ± 0.030 there. It
  is no constant: 30.8 ± 1.8 in the first eighth of the run, 209 ± 12 in the last.
  Not shown: that the critical batch size follows the data rather than the model.
Verdict: reproduced
Tuning: rates in powers of 2, for each batch size on seed 10, where the fewest steps win; the grid of three is widened
  until the best is inside. The window of the average and the batches of 256 for the noise scale were not tuned. A run
  ends at the goal or at 4 times the steps of the next smaller batch size.
Reference: Shallue et al., Measuring the effects of data parallelism on neural network training, JMLR 2019 (arXiv
  1811.03600); McCandlish et al., An empirical model of large-batch training, 2018 (arXiv 1812.06162).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from experiments.engine.reports import Record
from experiments.schedules._critical_batch_report import measure_all
from experiments.schedules._workloads import Workload, image_data, image_task

SPACING = 1.06


@dataclass(frozen=True)
class Config:
    """What is trained and measured."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/critical_batch"
    image_batches: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    image_examples: int = 40_000
    """that the smallest batch size sees until the goal"""
    hidden: int = 128
    image_noise_batch: int = 256
    """of the run along which the noise scale is measured"""
    held_out: int = 2000
    """images for the goal"""
    overhead: float = 0.2
    """more examples than the smallest batch size sees, at the critical batch size"""


def main(config: Config) -> list[Record]:
    """Measure all workloads and what predicts their steps."""
    return measure_all(config, workloads(config), None, config.image_batches)


def workloads(config: Config) -> dict[str, Callable[[], Workload]]:
    """The arm."""

    def images():
        train, held_out = jax.tree.map(jnp.asarray, image_data(config.held_out))
        sizes, examples, noise_batch = config.image_batches, config.image_examples, config.image_noise_batch
        return Workload(image_task(config.hidden), train, held_out, sizes, examples, 2.0**-3, noise_batch, SPACING)

    return {"images": images}
