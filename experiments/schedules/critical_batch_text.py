"""Steps to a goal by batch size for a small language model of bytes, and the noise scale beside them.

Claim: with the learning rate tuned for each batch size, twice the batch halves the steps to a goal only up to a point
  (Shallue et al.; Zhang et al.), and the gradient noise scale, measured along one run, says where within an order of
  magnitude (McCandlish et al.).
Data: windows of 32 bytes of twelve domains of real text, a transformer of one block and width 32, Adam at a constant
  rate after a warm-up. The goal is the loss, of an average of parameters on 192 held-out windows, that a batch of 16
  has after 6000 windows at its best rate. `python -m experiments.datasets fetch python_text sentiment newsgroups spam`
Command: `python -m experiments critical_batch_text`
Minutes: 0 on one CPU core
Expected: TODO
Verdict: partly: TODO
Tuning: TODO
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
