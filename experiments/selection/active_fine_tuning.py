"""Which passages to fine-tune a language model on before it continues a text: not those that say the same again.

Claim: the nearest passages of a pool repeat each other, the more so if the pool holds duplicates; SIFT, which asks what
  each passage still adds, gives fewer bits per byte after as many steps of fine-tuning, and knows when to stop.
Data: Python's standard library in windows of 256 bytes. A model of bytes is trained on prose, C headers and the first
  40 % of the Python windows; 3000 of the others are the pool, and of each of 96 more (from the same files) the first
  half is the query and the second half is predicted. With duplicates, every fourth passage of the pool is there 16
  times; near copies are the same, but 2 % of the bytes of 15 of them are others. Embeddings are latent semantics of
  runs of characters. Installed.
Command: `python -m experiments active_fine_tuning`
Minutes: 3 on one CPU core
Expected: bits per byte after fine-tuning on n passages, a step of Adam each; mean ± standard error over 3 seeds (of
  pool and queries), 2.877 ± 0.022 before. "different" is how many of the 16 are no copies of each other.

  | arm                  | n = 1         | n = 4         | n = 8         | n = 16        | different    |
  |----------------------|---------------|---------------|---------------|---------------|--------------|
  | random               | 2.878 ± 0.022 | 2.885 ± 0.022 | 2.887 ± 0.022 | 2.887 ± 0.021 | 16           |
  | nearest              | 2.788 ± 0.021 | 2.655 ± 0.016 | 2.559 ± 0.012 | 2.467 ± 0.014 | 16           |
  | SIFT                 | 2.788 ± 0.021 | 2.653 ± 0.019 | 2.555 ± 0.021 | 2.469 ± 0.021 | 10.38 ± 0.15 |
  | nearest, duplicates  | 2.788 ± 0.021 | 2.683 ± 0.016 | 2.692 ± 0.014 | 2.926 ± 0.020 | 3.62 ± 0.13  |
  | SIFT, duplicates     | 2.788 ± 0.021 | 2.653 ± 0.019 | 2.555 ± 0.021 | 2.469 ± 0.021 | 10.38 ± 0.15 |
  | nearest, near copies | 2.789 ± 0.022 | 2.688 ± 0.014 | 2.686 ± 0.012 | 2.811 ± 0.018 | 4.29 ± 0.12  |
  | SIFT, near copies    | 2.789 ± 0.022 | 2.659 ± 0.020 | 2.557 ± 0.019 | 2.476 ± 0.018 | 10.28 ± 0.17 |

  With SIFT's stop at 0.2, 0.3 or 0.5, when each query uses as many passages as its own variance says: mean number of
  passages 8.96, 5.10, 2.39; bits per byte 2.536, 2.607, 2.697; as many for every query give 2.540, 2.621, 2.714.

  Reproduced: with copies the nearest passages are no better after 4, and 16 of them, if exact, worse than no
  fine-tuning; exact copies do not change SIFT at all, near ones, which no test for equality removes, by 0.007 ± 0.004.
  Not reproduced: without copies SIFT is not better than the nearest passages (0.001 ± 0.017 worse at n = 16, seed by
  seed); so where copies are exact it gains nothing over removing them beforehand.
  The adaptive stop gains little over a fixed number, seed by seed 0.004 ± 0.004, 0.013 ± 0.001 and 0.016 ± 0.003 bits,
  and more passages helped throughout (2.469 with all 16).
Verdict: partly: SIFT avoids repetitions and is better where the pool holds copies; without them it is no better than
  the nearest passages, and its stop gains little over a fixed number.
Tuning: learning rate {1e-3, 3e-3, 1e-2} for each chooser and SIFT's noise {0.01, 0.1, 1} by the mean over n and the
  pools without and with exact copies, with --validate (24 other queries) and seeds 10 and 11. The best noise is the
  largest that was tried: 0.01, the default, took more passages that are less near (2.60 for n = 16 at 3e-3). The
  nearest with duplicates are better at 1e-3 (2.72 for n = 16), not as good as SIFT.
Reference: Hübotter et al., Efficiently learning at test-time: active fine-tuning of LLMs, 2025 (arXiv 2410.08020).
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, descend, init_mlp, minimize, mlp
from experiments.engine.panels import draw_panels
from experiments.selection._passages import PROMPT, Pool, Problem, draw_problem, windows_before
from minibatch_jax.selection import sift_indices
from minibatch_jax.selection.sift import Sift

CONTEXT, EMBEDDING, HIDDEN, BYTES = 12, 16, 128, 256
TUNED = {"random": 0.001, "nearest": 0.003, "SIFT": 0.003}
"""learning rates; best with --validate and seeds 10 and 11, as is SIFT's noise"""
TUNED_NOISE = 1.0
ARMS: dict[str, tuple[str, Pool]] = {
    "random": ("random", "single"),
    "nearest": ("nearest", "single"),
    "SIFT": ("SIFT", "single"),
    "nearest, duplicates": ("nearest", "duplicates"),
    "SIFT, duplicates": ("SIFT", "duplicates"),
    "nearest, near copies": ("nearest", "near copies"),
    "SIFT, near copies": ("SIFT", "near copies"),
}
"""name -> who chooses, and from which pool"""
BASELINES = {"nearest": "random", **{name: name.replace("SIFT", "nearest") for name in ARMS if "SIFT" in name}}
Params = tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]
"""embeddings of bytes, and the layers"""


@dataclass(frozen=True)
class Config:
    """All arms take as many steps, each on one passage."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/active_fine_tuning"
    arms: tuple[str, ...] = ()
    queries: int = 96
    """for each seed"""
    passages: int = 16
    """chosen for each query, in order; a step of Adam for each"""
    stops: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    """SIFT's adaptive stop: the n-th passage is used while the posterior deviation is at most 1 / (stop * n)"""
    steps_before: int = 1000
    batch_size_before: int = 16
    learning_rate: float | None = None
    """None: as tuned for each arm"""
    noise: float = TUNED_NOISE
    """of SIFT"""
    validate: bool = False
    """take other queries: for tuning"""


class Outcome(NamedTuple):
    """What fine-tuning for each query gave.

    Attributes:
      bits: `[Q, k + 1]`, bits per byte after 0 to k steps.
      distinct: `[Q]`, how many of the passages chosen are no copies of each other.
      used: stop -> `[Q]`, how many passages SIFT would have used with it.
    """

    bits: np.ndarray
    distinct: np.ndarray
    used: dict[float, np.ndarray]


Outcomes = Callable[[str, int], Outcome]
"""(arm, seed) -> outcome"""


def main(config: Config):
    """Fine-tune by all arms, then apply the adaptive stop to SIFT's runs, and report."""
    outcome = functools.cache(functools.partial(fine_tuned, config))
    arms: dict[str, Callable[[int], Any]] = {name: functools.partial(curve, config, outcome, name) for name in ARMS}
    better = {f"bits per byte, {n}": "lower" for n in steps_shown(config)[-2:]}
    options: Any = {"baseline": BASELINES, "better": better}
    records = compare(config, arms, xlabel="passages trained on", summary=by_steps, **options)
    panels = {"active fine-tuning": [r for r in records if r["step"] > 0]}
    path = Path(config.out) / "curves.png"
    draw_panels(panels, "bits_per_byte", "passages trained on", path, log=(True, False))
    stopping: dict[str, Callable[[int], Any]] = {
        name: functools.partial(stopped, outcome, name) for name, (chooser, _) in ARMS.items() if chooser == "SIFT"
    }
    changed = dataclasses.replace(config, arms=(), out=str(Path(config.out) / "stopping"))
    names = "bits_per_byte", "same_number_for_all"
    shown = {f"{name}, stop {stop}": "lower" for stop in config.stops[1:] for name in names}
    return records + compare(changed, stopping, xlabel="parameter of the adaptive stop", summary=by_stop, better=shown)


def curve(config: Config, outcome: Outcomes, name: str, seed: int) -> dict[int, dict[str, float]]:
    """Metrics of an arm by the number of passages trained on."""
    found = outcome(name, seed)
    metrics = {n: {"bits_per_byte": found.bits[:, n].mean()} for n in steps_shown(config)}
    return {n: {**at, "distinct": found.distinct.mean()} for n, at in metrics.items()}


def steps_shown(config: Config) -> list[int]:
    """Numbers of passages that are reported."""
    return [n for n in (0, 1, 2, 4, 8, 16, 32) if n <= config.passages]


def stopped(outcome: Outcomes, name: str, seed: int) -> dict[float, dict[str, float]]:
    """Bits per byte when each query stops for itself, and when all stop at the same mean number of passages."""
    bits, _, used = outcome(name, seed)
    return {
        stop: {
            "passages": count.mean(),
            "bits_per_byte": bits[np.arange(len(bits)), count].mean(),
            "same_number_for_all": np.interp(count.mean(), np.arange(bits.shape[1]), bits.mean(0)),
            "all_passages": bits[:, -1].mean(),
        }
        for stop, count in used.items()
    }


def fine_tuned(config: Config, name: str, seed: int) -> Outcome:
    """Choose passages for each query, and train the model on them one by one, anew for each query."""
    chooser, pool = ARMS[name]
    found = draw_problem(config.queries, config.validate, pool, seed)
    chosen = choose(found, chooser, config.passages, config.noise, seed)
    rate = config.learning_rate or TUNED[chooser]
    params = base_model(config.steps_before, config.batch_size_before)
    bits = continued(params, found.passages[jnp.asarray(chosen)], found.windows, rate)
    distinct = np.array([len(set(row)) for row in np.asarray(found.original)[chosen]])
    stops = config.stops if chooser == "SIFT" else ()
    used = {stop: np.asarray(sift(found, config.passages, config.noise, stop).kept).sum(1) for stop in stops}
    return Outcome(np.asarray(bits), distinct, used)


def choose(found: Problem, chooser: str, k: int, noise: float, seed: int) -> np.ndarray:
    """Passages `[Q, k]` for each query, in order of use."""
    if chooser == "random":
        rng = np.random.default_rng(seed)
        return np.stack([rng.permutation(len(found.passages))[:k] for _ in found.queries])
    if chooser == "nearest":
        return np.asarray(jax.lax.top_k(found.queries @ found.features.T, k)[1])
    return np.asarray(sift(found, k, noise, None).indices)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def sift(found: Problem, k: int, noise: float, stop: float | None) -> Sift:
    """SIFT's choice for each query by itself."""
    return jax.lax.map(lambda q: sift_indices(found.features, q[None], k, noise=noise, stop=stop), found.queries)


@jax.jit
def continued(params: Params, passages: jax.Array, windows: jax.Array, rate: float) -> jax.Array:
    """Bits per byte `[Q, k + 1]` of the second half of each window, after each step of Adam on its passages."""
    optimizer = optax.adam(rate)

    def bits(params, window):
        return jnp.mean(losses(params, window)[PROMPT:]) / jnp.log(2.0)

    def of_query(query):
        passages, window = query

        def step(state, passage):
            params, opt_state = state
            grads = jax.grad(lambda p: jnp.mean(losses(p, passage)))(params)
            params, opt_state = descend(optimizer, grads, params, opt_state)
            return (params, opt_state), bits(params, window)

        _, after = jax.lax.scan(step, (params, optimizer.init(params)), passages)
        return jnp.concatenate([bits(params, window)[None], after])

    return jax.lax.map(of_query, (passages, windows))


def losses(params: Params, window: jax.Array) -> jax.Array:
    """Cross-entropy `[n]` of each byte of a window `[n]`, given the bytes before it in the window."""
    table, layers = params
    padded = jnp.concatenate([jnp.zeros(CONTEXT, jnp.int32), window.astype(jnp.int32)])
    before = jnp.arange(len(window))[:, None] + jnp.arange(CONTEXT)[None]
    inputs = table[padded[before]].reshape(len(window), -1)
    return optax.softmax_cross_entropy_with_integer_labels(mlp(layers, inputs), window.astype(jnp.int32))


@functools.cache
def base_model(steps: int, batch_size: int) -> Params:
    """The model before, the same for all arms and seeds."""
    table_key, layers_key, batch_key = jax.random.split(jax.random.key(58), 3)
    table = jax.random.normal(table_key, (BYTES, EMBEDDING)) * 0.5
    params = table, init_mlp(layers_key, (CONTEXT * EMBEDDING, HIDDEN, BYTES))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    windows = jnp.asarray(windows_before())

    def gradient(params, key):
        batch = windows[jax.random.randint(key, (batch_size,), 0, len(windows))]
        return jax.grad(lambda p: jnp.mean(jax.vmap(losses, (None, 0))(p, batch)))(params)

    train = jax.jit(functools.partial(minimize, optimizer, gradient))
    return train(params, jax.random.split(batch_key, steps))


def by_steps(records) -> dict[str, float]:
    """The numbers of the table: bits per byte by the number of passages, and how many of all of them are different."""
    found = {f"bits per byte, {r['step']}": r["metrics"]["bits_per_byte"] for r in records}
    return {**found, "different passages": records[-1]["metrics"]["distinct"]}


def by_stop(records) -> dict[str, float]:
    """The numbers of the table of the adaptive stop."""
    return {f"{name}, stop {r['step']}": value for r in records for name, value in r["metrics"].items()}
