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

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import compare
from experiments.engine.reports import Record
from experiments.schedules._steps_to_goal import measure, noise_along
from experiments.schedules._workloads import Workload, byte_data, byte_task, image_data, image_task
from minibatch_jax.schedules import critical_batch_size, fit_critical_batch, perfect_scaling_line, scaling_regimes

LARGE = 2**20
"""stands for a batch size beyond those measured"""

Curve = dict[int | float, dict[str, float]]


@dataclass(frozen=True)
class Config:
    """What is trained and measured."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/critical_batch"
    arms: tuple[str, ...] = ()
    """names of the workloads; empty: all"""
    image_batches: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
    image_examples: int = 40_000
    """that the smallest batch size sees until the goal"""
    hidden: int = 128
    momentum: float = 0.9
    image_noise_batch: int = 256
    """of the run along which the noise scale is measured"""
    byte_batches: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    byte_examples: int = 12_000
    width: int = 32
    depth: int = 1
    length: int = 32
    byte_noise_batch: int = 64
    held_out: int = 2000
    """images for the goal"""
    held_out_windows: int = 384
    overhead: float = 0.2
    """more examples than the smallest batch size sees, at the critical batch size"""


def main(config: Config):
    """Measure all workloads; compare what the noise scale and perfect scaling predict for the larger batches."""
    arms = {name: curves(config, make) for name, make in workloads(config).items()}
    baseline = {name: "images" for name in arms if name.startswith("images,")}
    summary = functools.partial(summarized, config)
    records = compare(
        config, arms, xlabel="batch size", summary=summary, baseline=baseline, better={"critical_batch": "higher"}
    )
    predictions(config, records)
    return records


def workloads(config: Config) -> dict[str, Callable[[], Workload]]:
    """The arms: images, with a change of the optimizer, the data and the model each; and bytes."""

    def images(hidden=config.hidden, momentum=None, examples=config.image_examples):
        train, held_out = jax.tree.map(jnp.asarray, image_data(config.held_out))
        task = image_task(hidden, momentum)
        rate = 2.0**-3 if momentum is None else 2.0**-6
        return Workload(task, train, held_out, config.image_batches, examples, rate, config.image_noise_batch)

    def bytes_():
        train, held_out = map(jnp.asarray, byte_data(config.length, config.held_out_windows))
        task = byte_task(config.width, config.depth, config.length)
        examples, noise_batch = config.byte_examples, config.byte_noise_batch
        return Workload(task, train, held_out, config.byte_batches, examples, 2.0**-7, noise_batch)

    return {
        "images": images,
        "images, momentum": functools.partial(images, momentum=config.momentum),
        "images, quarter of the data": functools.partial(images, examples=config.image_examples // 4),
        "images, quarter of the width": functools.partial(images, hidden=config.hidden // 4),
        "bytes": bytes_,
    }


def curves(config: Config, make: Callable[[], Workload]) -> Callable[[int], Curve]:
    """The arm: steps by batch size of a seed. All seeds are measured at once, when the first one is asked for."""

    @functools.cache
    def measured() -> dict[int, Curve]:
        workload = make()
        found, goal = measure(workload, config.seeds)
        at = found[workload.noise_batch]
        noise_steps = math.ceil(max(s for s in (*at.steps, at.tuned_steps) if math.isfinite(s)))
        by_seed: dict[int, Curve] = {}
        for number, seed in enumerate(config.seeds):
            curve: Curve = {
                size: {
                    "steps": values.steps[number],
                    "examples": size * values.steps[number],
                    "log2_rate": math.log2(values.rate),
                }
                for size, values in found.items()
            }
            noise = noise_along(workload, at.rate, noise_steps, seed)[: math.ceil(min(at.steps[number], noise_steps))]
            curve[workload.batch_sizes[-1]] |= {
                "goal": goal,
                "noise_scale": float(np.nanmedian(noise)),
                "noise_scale_early": float(np.nanmedian(noise[: len(noise) // 8 + 1])),
                "noise_scale_late": float(np.nanmedian(noise[-(len(noise) // 8 + 1) :])),
                "noise_unknown": float(np.mean(np.isnan(noise))),
            }
            by_seed[seed] = curve
        return by_seed

    return lambda seed: measured()[seed]


def summarized(config: Config, records: list[Record]) -> dict[str, float]:
    """The fit to one seed: critical batch size, regimes, and the noise scale beside the fitted one, b / a."""
    sizes, steps = steps_of(records)
    fit = fit_critical_batch(jnp.asarray(sizes), jnp.asarray(steps))
    regimes = scaling_regimes(sizes, jnp.asarray(steps))
    last = {name: math.nan if value is None else value for name, value in records[-1]["metrics"].items()}
    turn = float(fit.b / fit.a)
    return {
        "critical_batch": float(critical_batch_size(fit.a, fit.b, sizes[0], config.overhead)),
        "turn": turn,
        "noise_scale": last["noise_scale"],
        "log2_ratio": math.log2(last["noise_scale"] / turn),
        "noise_scale_early": last["noise_scale_early"],
        "noise_scale_late": last["noise_scale_late"],
        "fewest_steps": float(fit.a),
        "fewest_examples": float(fit.b),
        "fit_error": float(fit.error),
        "log2_perfect_until": math.log2(regimes.perfect_until),
        "log2_maximal_from": math.log2(min(float(regimes.maximal_from), LARGE)),
        "goal": last["goal"],
        "steps_smallest": steps[0],
        "steps_largest": steps[-1],
    }


def steps_of(records: list[Record]) -> tuple[tuple[float, ...], np.ndarray]:
    """Batch sizes and steps of one seed, inf where the goal was not reached."""
    steps = [math.inf if (s := r["metrics"]["steps"]) is None else s for r in records]
    return tuple(float(r["step"]) for r in records), np.asarray(steps, np.float32)


def predictions(config: Config, records: list[Record]) -> list[Record]:
    """Compare what predicts the steps of all batch sizes from those of the smallest one."""

    def error(name: str, noise: bool, seed: int) -> dict[str, float]:
        own = [r for r in records if (r["arm"], r["seed"]) == (name, seed)]
        sizes, steps = steps_of(own)
        predicted = np.asarray(perfect_scaling_line(sizes, jnp.asarray(steps)))
        if noise:
            scale = own[-1]["metrics"]["noise_scale"]
            predicted = steps[0] * (1 + scale / np.asarray(sizes)) / (1 + scale / sizes[0])
        return {"log2_error": float(np.mean(np.abs(np.log2(predicted[1:] / steps[1:]))))}

    names = dict.fromkeys(r["arm"] for r in records)
    arms: dict[str, Any] = {}
    for name in names:
        arms[f"{name}: perfect scaling"] = functools.partial(error, name, False)
        arms[f"{name}: noise scale"] = functools.partial(error, name, True)
    baseline = {f"{name}: noise scale": f"{name}: perfect scaling" for name in names}
    own = dataclasses.replace(config, out=str(Path(config.out) / "predictions"), arms=())
    return compare(own, arms, baseline=baseline, better={"log2_error": "lower"})
