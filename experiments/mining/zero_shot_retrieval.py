"""Losses and miners at equal tuning, by retrieval of classes never seen: what exceeds the seeds, what does not.

Claim: tuned alike, losses and miners of metric learning differ less in zero-shot retrieval than their papers say; most
  differences are within the spread of the seeds.
Data: 1852 emoji as classes, four vendors' drawings (16x16 pixels) of each; 1185 classes to train on, 370 others to test
  on, 297 others to tune on. `python -m experiments.datasets fetch emoji emoji_twitter emoji_apple emoji_facebook`.
Command: `python -m experiments zero_shot_retrieval`
Minutes: 1.5 on one CPU core; --tune takes 4
Expected: mean ± standard error over 5 seeds

  arm                         mAP@R           R-precision     recall@1        less the best
  hard-negative NT-Xent       0.437 ± 0.002   0.471 ± 0.002   0.584 ± 0.003
  margin, distance-weighted   0.430 ± 0.002   0.467 ± 0.002   0.575 ± 0.001   -0.007 ± 0.004
  circle                      0.425 ± 0.002   0.461 ± 0.002   0.568 ± 0.002   -0.012 ± 0.003 *
  FastAP                      0.421 ± 0.002   0.456 ± 0.002   0.569 ± 0.002   -0.015 ± 0.001 *
  triplet, semi-hard          0.420 ± 0.002   0.453 ± 0.001   0.563 ± 0.003   -0.017 ± 0.002 *
  multi-similarity, mined     0.415 ± 0.002   0.452 ± 0.002   0.569 ± 0.002   -0.021 ± 0.004 *
  contrastive                 0.414 ± 0.002   0.448 ± 0.001   0.562 ± 0.002   -0.023 ± 0.002 *
  smooth-AP                   0.412 ± 0.002   0.447 ± 0.002   0.563 ± 0.004   -0.025 ± 0.003 *
  NT-Xent                     0.410 ± 0.002   0.447 ± 0.002   0.561 ± 0.004   -0.026 ± 0.002 *
  triplet, hardest            0.404 ± 0.003   0.439 ± 0.002   0.540 ± 0.004   -0.033 ± 0.003 *
  SupCon                      0.400 ± 0.003   0.438 ± 0.003   0.538 ± 0.003   -0.036 ± 0.004 *
  N-pairs                     0.361 ± 0.001   0.396 ± 0.001   0.511 ± 0.005   -0.075 ± 0.002 *
  triplet, all                0.355 ± 0.003   0.391 ± 0.003   0.509 ± 0.005   -0.082 ± 0.004 *
  triplet, random             0.332 ± 0.002   0.369 ± 0.002   0.480 ± 0.004   -0.105 ± 0.004 *
  ArcFace                     0.315 ± 0.004   0.350 ± 0.004   0.466 ± 0.002   -0.122 ± 0.004 *
  pixels                      0.314 ± 0.000   0.353 ± 0.000   0.474 ± 0.000
  normalized softmax          0.310 ± 0.004   0.346 ± 0.004   0.462 ± 0.003   -0.126 ± 0.003 *
  ProxyNCA                    0.310 ± 0.004   0.346 ± 0.004   0.462 ± 0.003   -0.127 ± 0.003 *
  CosFace                     0.309 ± 0.004   0.345 ± 0.004   0.462 ± 0.004   -0.127 ± 0.004 *
  proxy-anchor                0.304 ± 0.004   0.339 ± 0.004   0.458 ± 0.004   -0.133 ± 0.005 *
  lifted structure            0.290 ± 0.002   0.320 ± 0.002   0.409 ± 0.004   -0.147 ± 0.003 *
  untrained network           0.242 ± 0.003   0.276 ± 0.002   0.389 ± 0.006

  * beyond the seeds: paired by seed, t-test at 5 % with Holm's correction (differences.md).
  Not reproduced: with five seeds 18 of the 19 differ from the best by more than the seeds do. But the eight losses
  after the best two, from circle to hardest triplets, are within 2.1 points of mAP@R of each other, and the tuning
  matters as much: in the median, the worst setting of a loss's own grid costs 2.8 points (tuning.md).
  Random triplets are 8.8 points behind semi-hard ones. Lifted structure is behind the pixels; N-pairs, which uses two
  of the four images of a class in a batch, is far behind the losses that use all pairs.
  Losses with proxies are no better than the pixels. That is no verdict on them: a class is seen five times in 400
  steps, its proxy has no rate of its own, and their best settings are at the edge of the grid.
Verdict: not reproduced: with five seeds 18 of 19 losses differ from the best by more than the seeds do; but eight of
  them lie within 2.1 points of each other.
Tuning: `--tune` writes tuning.json and tuning.md: learning rate {5e-4, 2e-3} x three values of each loss's own number,
  by mAP@R on other classes with seeds 10 and 11. Many best settings are at an edge of the grid.
  Then the images of a class came in a fixed order; now it is random, which concerns N-pairs alone (0.301 before).
Reference: Musgrave et al., A metric learning reality check, 2020 (arXiv 2003.08505).
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, init_mlp, minimize, mlp
from experiments.engine.reports import Record, markdown, mean_and_error, write_text
from experiments.mining._emoji import IMAGES_PER_ROW as VIEWS
from experiments.mining._emoji import emoji_rows
from experiments.mining._retrieval_losses import METHODS, Vectors
from experiments.mining._retrieval_losses import gradient as gradient_of
from experiments.mining._retrieval_report import differences, draw_scores
from experiments.mining._retrieval_scores import scores
from minibatch_jax.mining import index_classes, normalize_embeddings, sample_classes

LEARNING_RATES = 5e-4, 2e-3
TUNING_SEEDS = 10, 11
BEST = "hard-negative NT-Xent"
"""the others are compared with it: it has the highest mAP@R in the default configuration"""


class Setting(NamedTuple):
    """Learning rate of Adam, and the value of the loss's own number."""

    learning_rate: float
    value: float


TUNED = {
    "triplet, random": Setting(0.0005, 0.1),
    "triplet, semi-hard": Setting(0.0005, 0.8),
    "triplet, hardest": Setting(0.0005, 0.3),
    "triplet, all": Setting(0.0005, 0.1),
    "contrastive": Setting(0.0005, 0.6),
    "margin, distance-weighted": Setting(0.002, 0.9),
    "multi-similarity, mined": Setting(0.002, 0.5),
    "circle": Setting(0.002, 20.0),
    "lifted structure": Setting(0.0005, 0.5),
    "N-pairs": Setting(0.0005, 0.1),
    "NT-Xent": Setting(0.002, 0.05),
    "hard-negative NT-Xent": Setting(0.002, 0.2),
    "SupCon": Setting(0.002, 0.05),
    "FastAP": Setting(0.002, 10),
    "smooth-AP": Setting(0.002, 0.03),
    "ProxyNCA": Setting(0.002, 0.2),
    "proxy-anchor": Setting(0.002, 10.0),
    "normalized softmax": Setting(0.002, 10.0),
    "CosFace": Setting(0.002, 10.0),
    "ArcFace": Setting(0.002, 10.0),
}
"""what `--tune` found"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the loss and in what was tuned for it."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/zero_shot_retrieval"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    steps: int = 400
    classes: int = 16
    """in a batch, with four images each"""
    hidden: int = 256
    dimensions: int = 64
    tune: bool = False
    """try the grid of every arm on held-out training classes, and write tuning.json and tuning.md, instead"""


def main(config: Config):
    """Train with every loss, report, and compare all with the best."""
    return tune(config) if config.tune else final(config)


def final(config: Config) -> list[Record]:
    """All arms as tuned, and what needs no training."""
    train, test = images(validate=False)
    arms: dict[str, Any] = {name: partial(one_run, config, name, train, test, TUNED[name]) for name in METHODS}
    arms["untrained network"] = lambda seed: evaluate(initial(config, jax.random.key(seed), train.shape), test)
    arms["pixels"] = lambda seed: scores(test)
    records = compare(config, arms, baseline=BEST, better={"map_at_r": "higher"})
    rows = differences(records, "map_at_r", list(METHODS))
    write_text(Path(config.out) / "differences.md", markdown(rows))
    draw_scores(records, "map_at_r", Path(config.out) / "map_at_r.png")
    print(markdown(rows))
    return records


def tune(config: Config) -> list[Record]:
    """The grid of every arm, with the last fifth of the training classes as the test classes."""
    train, test = images(validate=True)
    grid = {name: [Setting(r, v) for r in LEARNING_RATES for v in METHODS[name].values] for name in METHODS}
    names = {label(name, s): (name, s) for name in METHODS for s in grid[name]}
    arms: dict[str, Any] = {key: partial(one_run, config, name, train, test, s) for key, (name, s) in names.items()}
    folder = Path(config.out) / "tuning"
    records = compare(dataclasses.replace(config, seeds=TUNING_SEEDS, out=str(folder)), arms)
    means = {
        key: mean_and_error([r["metrics"]["map_at_r"] or 0.0 for r in records if r["arm"] == key])[0] for key in arms
    }
    best = {name: max(grid[name], key=lambda s, name=name: means[label(name, s)]) for name in METHODS}
    write_text(Path(config.out) / "tuning.json", json.dumps({n: s._asdict() for n, s in best.items()}, indent=2) + "\n")
    rows = [["arm", "learning rate", "own number", "mAP@R", "median of the grid", "lowest"]]
    for name, setting in best.items():
        found = np.array([means[label(name, s)] for s in grid[name]])
        cells = [f"{x:.3f}" for x in (found.max(), np.median(found), found.min())]
        rows.append([name, f"{setting.learning_rate:g}", f"{METHODS[name].number} {setting.value:g}", *cells])
    write_text(Path(config.out) / "tuning.md", markdown(rows))
    print(markdown(rows))
    return records


def images(validate: bool) -> tuple[jax.Array, jax.Array]:
    """Standardized images `[classes, 4, pixels]` to train on, the same ones in both cases, and to test on."""
    rows = emoji_rows("train")["image"]
    cut = len(rows) * 4 // 5
    train, test = rows[:cut], rows[cut:] if validate else emoji_rows("test")["image"]
    mean, deviation = train.mean(), train.std()
    return jnp.asarray((train - mean) / deviation), jnp.asarray((test - mean) / deviation)


def label(name: str, setting: Setting) -> str:
    """The name of an arm of the tuning."""
    return f"{name}, rate {setting.learning_rate:g}, {METHODS[name].number} {setting.value:g}"


def one_run(
    config: Config, name: str, train: jax.Array, test: jax.Array, setting: Setting, seed: int
) -> dict[str, float]:
    """Train with one loss; batches and parameters at the start depend on the seed alone."""
    sizes = dataclasses.replace(config, seeds=(), out="", arms=(), tune=False)
    fit = program(sizes, name, setting.value if METHODS[name].static else None, train.shape)
    rate, value = (jnp.float32(x) for x in setting)
    started = time.process_time()
    layers = jax.block_until_ready(fit(jax.random.key(seed), train, rate, value))
    milliseconds = (time.process_time() - started) * 1000 / config.steps
    return {**evaluate(layers, test), "cpu_ms_per_step": milliseconds}


@cache
def program(config: Config, name: str, static: float | None, shape: tuple[int, ...]):
    """A whole training, compiled once for all seeds and settings."""
    method = METHODS[name]
    labels = jnp.repeat(jnp.arange(shape[0], dtype=jnp.int32), VIEWS)
    index = index_classes(labels, shape[0])

    def fit(key, images, rate, value):
        init_key, proxy_key, batch_key, loss_key = jax.random.split(key, 4)
        params: Any = {"layers": initial(config, init_key, shape)}
        if method.proxies:
            params["proxies"] = jax.random.normal(proxy_key, (shape[0], config.dimensions))
        decay = optax.cosine_decay_schedule(1.0, config.steps)
        optimizer = optax.adam(lambda count: rate * decay(count))
        flat = images.reshape(len(labels), -1)

        def vectors(params, images):
            return Vectors(normalize_embeddings(mlp(params["layers"], images)), params.get("proxies"))

        def gradient(params, keys):
            rows = sample_classes(keys[0], index, config.classes, VIEWS).reshape(-1)
            number = value if static is None else static
            return gradient_of(method, number, vectors, params, flat[rows], labels[rows], keys[1])

        keys = jax.vmap(lambda i: [jax.random.fold_in(k, i) for k in (batch_key, loss_key)])(jnp.arange(config.steps))
        return minimize(optimizer, gradient, params, keys)["layers"]

    shapes = jax.ShapeDtypeStruct(shape, jnp.float32), *(jax.ShapeDtypeStruct((), jnp.float32),) * 2
    return jax.jit(fit).lower(jax.random.key(0), *shapes).compile()


def initial(config: Config, key: jax.Array, shape: tuple[int, ...]) -> Any:
    """The network before training."""
    return init_mlp(key, (shape[-1], config.hidden, config.dimensions))


def evaluate(layers: Any, images: jax.Array) -> dict[str, float]:
    """Scores of the embeddings of images `[classes, 4, pixels]`."""
    return scores(_embed(layers, images))


@jax.jit
def _embed(layers, images):
    return mlp(layers, images.reshape(-1, images.shape[-1])).reshape(*images.shape[:2], -1)
