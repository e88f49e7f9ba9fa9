"""Steps to a goal by batch size: perfect scaling, diminishing returns, a plateau, and where the noise scale puts them.

Claim: with the learning rate tuned for each batch size, twice the batch halves the steps to a goal only up to a point,
  and at last saves nothing (Shallue et al.); the gradient noise scale, measured along one run, says where within an
  order of magnitude (McCandlish et al.); the critical batch size grows with the data and hardly with the model (Zhang
  et al.).
Data: Fashion-MNIST at 14x14 pixels, 50 000 images to train on and 2000 others for the goal, an MLP and SGD at a
  constant rate; and windows of 32 bytes of twelve domains of real text, a transformer of width 32 and Adam.
  `python -m experiments.datasets fetch fashion_mnist python_text sentiment newsgroups spam`. The goal is the held-out
  loss that the smallest batch size has after so many examples at its best rate.
Command: `python -m experiments critical_batch`
Minutes: 0 on one CPU core
Expected: TODO
Verdict: partly: TODO
Tuning: TODO
Reference: Shallue et al., Measuring the effects of data parallelism on neural network training, JMLR 2019 (arXiv
  1811.03600); McCandlish et al., An empirical model of large-batch training, 2018 (arXiv 1812.06162); Zhang et al., How
  does critical batch size scale in pre-training?, ICLR 2025 (arXiv 2410.21676).
"""

import functools
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
    arms: tuple[str, ...] = ()
    """names of the workloads; empty: all"""
    image_batches: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    """the arms beside the first have every second of them"""
    image_examples: int = 40_000
    """that the smallest batch size sees until the goal"""
    hidden: int = 128
    momentum: float = 0.9
    image_noise_batch: int = 256
    """of the run along which the noise scale is measured"""
    held_out: int = 2000
    """images for the goal"""
    overhead: float = 0.2
    """more examples than the smallest batch size sees, at the critical batch size"""


def main(config: Config) -> list[Record]:
    """Measure all workloads and what predicts their steps."""
    arms = workloads(config)
    baseline = {name: "images" for name in arms if name != "images"}
    return measure_all(config, arms, baseline, config.image_batches[::2])


def workloads(config: Config) -> dict[str, Callable[[], Workload]]:
    """The arms: images, with a change of the data, the model and the optimizer each."""

    def images(hidden=config.hidden, momentum=None, examples=config.image_examples, every=2):
        train, held_out = jax.tree.map(jnp.asarray, image_data(config.held_out))
        task = image_task(hidden, momentum)
        rate = 2.0**-3 if momentum is None else 2.0**-6
        sizes = config.image_batches[::every]
        return Workload(task, train, held_out, sizes, examples, rate, config.image_noise_batch, SPACING)

    return {
        "images": functools.partial(images, every=1),
        "images, quarter of the data": functools.partial(images, examples=config.image_examples // 4),
        "images, quarter of the width": functools.partial(images, hidden=config.hidden // 4),
        "images, momentum": functools.partial(images, momentum=config.momentum),
    }
