"""Immiscible noise from rounded distances: which pairs and how much time rounding costs or saves.

Claim: an assignment of noise to images on distances rounded to half precision is faster than the exact one and finds
  practically as near pairs.
Data: Fashion-MNIST, 784 pixels in [-1, 1], and Gaussian noise. `python -m experiments.datasets fetch fashion_mnist`.
  "float16" are distances of a tenth of images and noise in half precision; "12 bits" are 4096 levels.
Command: `python -m experiments quantized_assignment`
Minutes: 0.8 on one CPU core
Expected: mean ± standard error over 3 seeds at a batch size of 1024. `same`: pairs that the exact distances give too,
  in per cent. `regret`: by how many per cent the mean distance of the pairs is above the least. CPU milliseconds of the
  assignment alone, of this library (`assignment`, compiled) and of scipy (`linear_sum_assignment`), which the paper
  uses; on a busy machine:

  | arm     | same         | regret            | CPU ms      | CPU ms, scipy |
  |---------|--------------|-------------------|-------------|---------------|
  | float32 | 100 ± 0      | 0 ± 0             | 16.2 ± 1.1  | 316.2 ± 4.7   |
  | float16 | 87.9 ± 1.0   | 0.00080 ± 0.00007 | 17.9 ± 1.8  | 233.5 ± 5.4   |
  | 12 bits | 97.1 ± 1.7   | 0.00000 ± 0.00000 | 14.9 ± 0.2  | 292.4 ± 9.0   |
  | 8 bits  | 79.6 ± 2.1   | 0.00405 ± 0.00075 | 17.2 ± 2.7  | 196.4 ± 2.6   |
  | 4 bits  | 21.1 ± 0.7   | 0.332 ± 0.009     | 61 ± 14     | 97.2 ± 2.5    |

  Reproduced: the pairs. The exact ones are 3.3 % nearer than random pairs, those of 8 bits or half precision too, to
  the second digit; a fifth or an eighth of them are other pairs.
  Reproduced: the speed of scipy, 26 % less time with half precision, 38 % with 8 bits.
  Not reproduced: the speed of this library. It is the same from 32 to 8 bits, a twentieth of scipy's; with 4 bits ties
  take 4 times as long. Take `bits` for an assignment free of rounding errors, not for speed.
Verdict: partly: the pairs are as near, scipy is faster on rounded distances, this library's solver is not
Tuning: none.
Reference: Li et al., Immiscible diffusion, 2024 (arXiv 2406.12303).
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linear_sum_assignment

from experiments.datasets import arrays
from experiments.engine import compare
from experiments.engine.reports import Record
from minibatch_jax.coupling import assignment
from minibatch_jax.coupling.costs import euclidean_cost
from minibatch_jax.coupling.flows.immiscible import quantize_cost

Rounding = Callable[[jax.Array], jax.Array]

HALF_SCALE = 0.1
"""what images and noise are multiplied with before half precision, so that no sum of squares overflows"""


@dataclass(frozen=True)
class Config:
    """What is assigned; nothing is trained, and nothing was tuned."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/quantized_assignment"
    batch_sizes: tuple[int, ...] = (64, 128, 256, 512, 1024)
    bits: tuple[int, ...] = (12, 8, 4)
    repeats: int = 3
    """of each solve; the median counts"""


def main(config: Config):
    """Assign the same noise to the same images on exact and rounded distances, and report."""
    pixels = arrays("fashion_mnist", "train")["image"]
    arms = {name: partial(measured, config, pixels, rounding) for name, rounding in roundings(config).items()}
    better = {"regret": "lower", "cpu_ms": "lower", "scipy_cpu_ms": "lower"}
    return compare(config, arms, xlabel="batch size", summary=summary, baseline="float32", better=better)


def roundings(config: Config) -> dict[str, Rounding]:
    """The arms: what the distances are rounded to."""
    return {
        "float32": lambda cost: cost,
        "float16": lambda cost: (HALF_SCALE * cost).astype(jnp.float16).astype(jnp.float32),
        **{f"{bits} bits": partial(quantize_cost, bits=bits) for bits in config.bits},
    }


def measured(
    config: Config, pixels: np.ndarray, rounding: Rounding, seed: int
) -> dict[int | float, Mapping[str, float]]:
    """Pairs and milliseconds by batch size."""
    rng = np.random.default_rng(seed)
    found: dict[int | float, Mapping[str, float]] = {}
    for size in config.batch_sizes:
        rows = rng.choice(len(pixels), size, replace=False)
        images = pixels[rows].reshape(size, -1).astype(np.float32) / 127.5 - 1
        noise = rng.normal(size=images.shape).astype(np.float32)
        cost = euclidean_cost(jnp.asarray(images), jnp.asarray(noise))
        found[size] = compared(cost, rounding(cost), config.repeats)
    return found


def compared(cost: jax.Array, rounded: jax.Array, repeats: int) -> dict[str, float]:
    """The assignment on rounded distances `[B, B]` beside the exact one.

    `same` is the fraction of equal pairs, `regret` by how many per cent of the best mean distance that of the pairs is
    above it, `gain` by how many per cent the mean distance is below that of random pairs, `levels` how many different
    values the distances have, and the milliseconds are those of this library and of scipy for the assignment alone.
    """
    best = np.asarray(solve(cost).columns)
    columns, ms = timed(lambda: np.asarray(solve(rounded).columns), repeats)
    host = np.asarray(rounded, np.float64)
    (_, others), scipy_ms = timed(lambda: linear_sum_assignment(host), repeats)
    exact, lines = np.asarray(cost, np.float64), np.arange(len(cost))
    if not np.isclose(host[lines, columns].sum(), host[lines, others].sum(), rtol=1e-5):
        raise RuntimeError("The assignment is not the cheapest one.")
    least, reached = exact[lines, best].mean(), exact[lines, columns].mean()
    return {
        "same": float((columns == best).mean()),
        "regret": float(100 * (reached / least - 1)),
        "gain": float(100 * (1 - reached / exact.mean())),
        "levels": len(np.unique(host)),
        "cpu_ms": ms,
        "scipy_cpu_ms": scipy_ms,
    }


solve = jax.jit(assignment)


def timed(call: Callable, repeats: int):
    """What a call returns, and the median of its milliseconds of CPU time; the first call is not counted."""
    result = call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    return result, statistics.median(times)


def summary(records: list[Record]) -> dict[str, float]:
    """The largest batch size, and the milliseconds at 256."""
    last = records[-1]["metrics"]
    middle = next((r["metrics"] for r in records if r["step"] == 256), last)
    return {**last, "cpu_ms_at_256": middle["cpu_ms"], "scipy_cpu_ms_at_256": middle["scipy_cpu_ms"]}
