"""Steps to a goal by batch size for a small language model of bytes, and the noise scale beside them.

Claim: with the learning rate tuned for each batch size, twice the batch halves the steps to a goal only up to a point
  (Shallue et al.; Zhang et al.), and the gradient noise scale, measured along one run, says where within an order of
  magnitude (McCandlish et al.).
Data: windows of 32 bytes of twelve domains of real text, a transformer of one block and width 32, Adam at a constant
  rate after a warm-up. The goal is the loss, of an average of parameters on 192 held-out windows, that a batch of 16
  has after 6000 windows at its best rate: 2.737 nats a byte. `python -m experiments.datasets fetch python_text
  sentiment newsgroups spam`
Command: `python -m experiments critical_batch_text`
Minutes: 5 on one CPU core
Expected: mean ± standard error over 3 seeds. Steps to the goal, interpolated between evaluations 12 % apart; the goal
  counts when two evaluations in a row reach it:

  | batch | rate   | steps | windows, thousands   | perfect scaling, steps |
  |-------|--------|-------|----------------------|------------------------|
  | 16    | 1/128  | 421   | 6.7                  | 421                    |
  | 32    | 1/64   | 268   | 8.6                  | 211                    |
  | 64    | 1/64   | 166   | 10.6                 | 105                    |
  | 128   | 1/32   | 125   | 16.0                 | 53                     |
  | 256   | 1/32   | 98    | 25.1                 | 26                     |
  | 512   | 1/32   | 88    | 45.3                 | 13                     |

  Fit of a + b / B: a is 77.34 ± 0.38 steps and b is 5738 ± 204 windows, with an error of 0.038 ± 0.004 in log S. The
  critical batch size, which by the fit sees 20 % more windows than a batch of 16, is 34.04 ± 0.60 windows; b / a is
  74.2 ± 3.0 windows.
  Reproduced: diminishing returns. Neither end lies in the range: from 16 to 32 windows the steps fall by 36 % rather
  than by half, and from 256 to 512 still by a tenth.
  Reproduced: the noise scale along one run with batches of 64, from 8 micro-batches, has a median of 53.9 ± 2.5
  windows, b / a times 2 to the power of -0.46 ± 0.12 (log2), though Adam is not the SGD of its theory. Steps that are
  predicted from those of a batch of 16 by the noise scale are off by 0.178 ± 0.058 in log2, the mean over batch sizes;
  those of perfect scaling by 1.379 ± 0.047 there. It grows from 5.12 ± 0.66 in the first eighth of the run to 65 ± 11
  in the last.
  Not shown: how the critical batch size grows with data or model. The runs are short, some 80 to 450 steps.
Verdict: partly: returns diminish where the noise scale says; the range shows no perfect scaling and no plateau
Tuning: rates in powers of 2, for each batch size on seed 10, where the fewest steps win; the grid of three is widened
  until the best is inside. The warm-up and the window of the average, 1/16 of the 6000 windows each, Adam's decay of
  0.99 of the second moment, and batches of 64 for the noise scale were not tuned. A run ends at the goal or at 4 times
  the steps of the next smaller batch size.
Reference: Shallue et al., Measuring the effects of data parallelism on neural network training, JMLR 2019 (arXiv
  1811.03600); McCandlish et al., An empirical model of large-batch training, 2018 (arXiv 1812.06162); Zhang et al., How
  does critical batch size scale in pre-training?, ICLR 2025 (arXiv 2410.21676).
"""

from dataclasses import dataclass

import jax.numpy as jnp

from experiments.engine.reports import Record
from experiments.schedules._critical_batch_report import measure_all
from experiments.schedules._workloads import Workload, byte_data, byte_task

SPACING = 1.12


@dataclass(frozen=True)
class Config:
    """What is trained and measured."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/critical_batch_text"
    byte_batches: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    byte_examples: int = 6000
    """that the smallest batch size sees until the goal"""
    width: int = 32
    depth: int = 1
    length: int = 32
    byte_noise_batch: int = 64
    """of the run along which the noise scale is measured"""
    held_out_windows: int = 192
    """for the goal"""
    overhead: float = 0.2
    """more examples than the smallest batch size sees, at the critical batch size"""


def main(config: Config) -> list[Record]:
    """Measure the model of bytes, and what predicts its steps."""

    def workload():
        train, held_out = map(jnp.asarray, byte_data(config.length, config.held_out_windows))
        task = byte_task(config.width, config.depth, config.length)
        sizes, examples, noise_batch = config.byte_batches, config.byte_examples, config.byte_noise_batch
        return Workload(task, train, held_out, sizes, examples, 2.0**-7, noise_batch, SPACING)

    return measure_all(config, {"bytes": workload}, None, config.byte_batches)
