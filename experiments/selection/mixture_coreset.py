"""A small batch chosen from a large one, to fine-tune a language model on three sources of text of which one is tiny.

Claim: CoLM, the tiny source whole and medoids of the others by their gradients, trains low-rank adapters better than
  random batches of its size, nears training on the whole large batch, and needs the memory of the small one.
Data: windows of 32 bytes. A transformer of two blocks is trained on Python source; then adapters (LoRA) of its query
  and value projections are trained on posts to newsgroups (20 000 windows, 75 %), C headers (6000, 22 %) and the topics
  of `pydoc` (800, 3 %). `python -m experiments.datasets fetch newsgroups`; the rest is in every Python installation.
Command: `python -m experiments mixture_coreset`
Minutes: 2 on one CPU core
Expected: bits for a byte of held-out windows after 200 steps, mean ± standard error over 3 seeds; what the mean changes
  from random batches, paired by seed; the share of prose among the rows. Small batches have 16 of the 64 windows of a
  super-batch:

  | arm               | posts         | C             | prose         | mean          | change         | share         |
  |-------------------|---------------|---------------|---------------|---------------|----------------|---------------|
  | random            | 3.769 ± 0.005 | 4.364 ± 0.005 | 3.914 ± 0.006 | 4.015 ± 0.004 |                | 0.025 ± 0.002 |
  | random by source  | 3.775 ± 0.002 | 4.349 ± 0.006 | 3.881 ± 0.006 | 4.002 ± 0.004 | -0.014 ± 0.002 | 0.115 ± 0.003 |
  | medoids by source | 3.767 ± 0.003 | 4.363 ± 0.003 | 3.904 ± 0.005 | 4.011 ± 0.002 | -0.004 ± 0.002 | 0.059 ± 0.001 |
  | CoLM              | 3.778 ± 0.004 | 4.347 ± 0.005 | 3.885 ± 0.002 | 4.003 ± 0.002 | -0.012 ± 0.003 | 0.115 ± 0.003 |
  | whole super-batch | 3.752 ± 0.004 | 4.329 ± 0.011 | 3.922 ± 0.003 | 4.001 ± 0.005 | -0.015 ± 0.002 | 0.029 ± 0.001 |

  "random by source" keeps the tiny source whole and fills each other source's budget at random; "medoids by source" is
  CoLM without keeping the tiny source. Beside its arguments a step of CoLM needs 3.2 MB, as one on a random small batch
  does, and one on the whole super-batch 14.7 MB (memory.md): the backward pass keeps what 16 rows need and not 64, and
  rows are scored 16 at a time. It takes 6.7 ms of CPU time, of random batches 2.0, of the whole one 9.1 (costs.md):
  70 % of it is scoring.
  CoLM is better than random batches, and in the mean as good as the whole super-batch. But this is the budgets' doing:
  random rows in the same budgets gain as much, by more on prose, and the medoids add nothing. All gains are small,
  since the adapters learn little in 200 steps.
Verdict: partly: CoLM beats random batches and equals the whole super-batch in the memory of the small one, but by its
  budgets for the sources alone: random rows in them do as well.
Tuning: Adam's rate {3e-3, 1e-2, 3e-2} for random batches, with --validate, seed 10, 300 steps (200 for the largest) and
  twice the width; 1e-2 was best, and all arms take it.
Reference: Nguyen et al., Mini-batch coresets for memory-efficient language model training on data mixtures, 2024
  (arXiv 2407.19580).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.datasets import arrays
from experiments.engine import Arm, State, gradient_arm, run, without_losses
from experiments.engine.folders import chosen_arms
from experiments.engine.reports import markdown, write_text
from experiments.selection._adapted_bytes import AdaptedBytes
from experiments.shared.step_costs import print_step_costs
from minibatch_jax import normalize, value_and_grad
from minibatch_jax.scores import zeroth_order_features
from minibatch_jax.selection import keep_by_colm

DOMAINS = ("posts", "c", "prose")
TINY = DOMAINS.index("prose")
RANDOM = "random"


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the rows they differentiate."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/mixture_coreset"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    steps: int = 200
    batch_size: int = 64
    """rows of the super-batch"""
    keep: int = 16
    """rows that the small batches have"""
    evaluate_every: int = 100
    checkpoint_every: int = 200
    length: int = 32
    """bytes in a window"""
    windows: tuple[int, ...] = (20_000, 6000, 800)
    """of each source"""
    test_windows: int = 128
    """of each source"""
    width: int = 32
    depth: int = 2
    rank: int = 4
    coordinates: int = 32
    """of the 128 of the gradient estimate that are compared, for each source"""
    base_steps: int = 500
    base_batch_size: int = 32
    base_learning_rate: float = 3e-3
    learning_rate: float = 1e-2
    validate: bool = False
    """test on windows left out of the training set: for tuning"""


class Method(NamedTuple):
    """A weight transformation, `score(key, params, batch)` of its signals, and how many rows are read and kept."""

    transformation: Any
    score: Callable[[jax.Array, Any, dict[str, jax.Array]], dict[str, jax.Array]]
    read: int
    kept: int


def main(config: Config):
    """Train all arms, report, and report the time and the memory of a step of each."""
    model = AdaptedBytes(config.length, config.width, config.depth, config.rank)
    splits = text(config)
    sizes = config.base_steps, config.base_batch_size, config.base_learning_rate
    base = model.pretrained(jnp.asarray(splits["before"]), *sizes)
    arms = {name: trainer(config, model, base, method) for name, method in methods(config, model, base).items()}

    @jax.jit
    def evaluate(state: State, data: dict[str, Any]) -> dict[str, jax.Array]:
        params = model.merged(base, state.params)
        bits = {name: jnp.mean(model.losses(params, data["test"][name])) / jnp.log(2) for name in DOMAINS}
        mean = jnp.mean(jnp.stack([*bits.values()]))
        return {"mean_bits": mean, **{f"{name}_bits": value for name, value in bits.items()}}

    data = {"train": splits["train"], "test": splits["test"]}
    records = run(
        config, arms, lambda seed: data, evaluate, steps_per_call=25, baseline=RANDOM, better={"mean_bits": "lower"}
    )
    arms = chosen_arms(config, arms)
    batch = jax.tree.map(lambda x: jnp.asarray(x[: config.batch_size]), splits["train"])
    print_step_costs(arms, batch, dict.fromkeys(arms, config.steps), Path(config.out) / "costs.md", repeats=3)
    memory = [["arm", "MB"], *([name, f"{megabytes(arm, batch):.2f}"] for name, arm in arms.items())]
    write_text(Path(config.out) / "memory.md", markdown(memory))
    print(markdown(memory))
    return records


def methods(config: Config, model: AdaptedBytes, base: Any) -> dict[str, Method]:
    """How each arm chooses its rows; the rows are scored in parts of the size of a small batch, to save memory."""
    small, large = config.keep, config.batch_size

    def nothing(key, params, batch):
        return {}

    def noise(key, params, batch):
        return {"features": jax.random.normal(key, (large, 4)), "domains": batch["domain"]}

    def gradients(key, params, batch):
        parts = batch["tokens"].reshape(-1, small, config.length)
        features = jax.lax.map(lambda part: gradient_estimates(key, model, base, params, part), parts)
        return {"features": features.reshape(large, -1), "domains": batch["domain"]}

    def by_source(keep_domains, **options):
        return optax.chain(keep_by_colm(small, len(DOMAINS), keep_domains=keep_domains, **options), normalize())

    of_gradients: Any = {"num_features": config.rank * config.width, "num_coordinates": config.coordinates}
    return {
        RANDOM: Method(normalize(), nothing, small, small),
        "random by source": Method(by_source((TINY,)), noise, large, small),
        "medoids by source": Method(by_source((), **of_gradients), gradients, large, small),
        "CoLM": Method(by_source((TINY,), **of_gradients), gradients, large, small),
        "whole super-batch": Method(normalize(), nothing, large, large),
    }


def gradient_estimates(key: jax.Array, model: AdaptedBytes, base: Any, adapters: Any, tokens: jax.Array) -> jax.Array:
    """Zeroth-order gradients `[B, rank * width]` of the last value projection, by two passes of the last block."""
    hidden = model.before_last(model.merged(base, adapters), tokens)

    def losses(adapters, rows):
        return model.last_losses(model.merged(base, adapters), rows["hidden"], rows["tokens"])

    rows = {"hidden": hidden, "tokens": tokens}
    return zeroth_order_features(key, losses, adapters, rows, parameter=f"{model.last}/value/b")


def trainer(config: Config, model: AdaptedBytes, base: Any, method: Method) -> Arm:
    """Train the adapters on the chosen rows, all with the same weight."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.steps // 20, config.steps)

    def losses(adapters, batch):
        return model.losses(model.merged(base, adapters), batch["tokens"])

    selected = value_and_grad(losses, method.transformation, gather=method.kept, score_fn=without_losses)

    def start(key):
        model_key, key = jax.random.split(key)
        selection_state = method.transformation.init(jnp.zeros(method.read))
        return {"params": model.adapters(model_key), "selection_state": selection_state, "keys": key}

    def gradient(state, batch):
        key, probe_key = jax.random.split(state.keys)
        batch = jax.tree.map(lambda x: x[: method.read], batch)
        signals = method.score(probe_key, state.params, batch)
        (_, aux), grads, selection_state = selected(state.params, batch, state.selection_state, **signals)
        kept = aux.weights > 0
        tiny = (jnp.sum(kept & (batch["domain"] == TINY)), jnp.sum(kept))
        return grads, {"selection_state": selection_state, "keys": key}, {"tiny_share": tiny}

    return gradient_arm(optax.adam(schedule), start, gradient)


def megabytes(arm: Arm, batch: dict[str, jax.Array]) -> float:
    """Memory that a compiled step needs beside its arguments and results."""
    state = jax.eval_shape(arm.init, jax.random.key(0))
    analysis: Any = jax.jit(arm.step).lower(state, batch).compile().memory_analysis()
    return analysis.temp_size_in_bytes / 1e6


def text(config: Config) -> dict[str, Any]:
    """Splits before: Python windows `[N, length]`; train: `tokens` and `domain` of the mixture; test: by source."""
    rng = np.random.default_rng(0)
    sources = {name: texts(name, config) for name in (*DOMAINS, "python")}
    train = [rng.permutation(sources[name][0])[:count] for name, count in zip(DOMAINS, config.windows)]
    domain = np.repeat(np.arange(len(DOMAINS), dtype=np.int32), [len(tokens) for tokens in train])
    test = {name: rng.permutation(sources[name][1])[: config.test_windows] for name in DOMAINS}
    return {
        "before": sources["python"][0],
        "train": {"tokens": np.concatenate(train), "domain": domain},
        "test": test,
    }


@functools.cache
def texts(name: str, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Windows `[N, length]` int32 of the training and of the test text of a source."""
    if name == "posts":
        parts = (b"\n".join(arrays("newsgroups", split)["text"]) for split in ("train", "test"))
        train, test = (np.frombuffer(part, np.uint8) for part in parts)
    else:
        label = ("c", "prose", "python").index(name)
        rows = (arrays("python_text", split) for split in ("train", "test"))
        train, test = (data["tokens"][data["label"] == label].reshape(-1) for data in rows)
    if config.validate:
        train, test = train[: len(train) * 9 // 10], train[len(train) * 9 // 10 :]
    train, test = (x[: len(x) // config.length * config.length].reshape(-1, config.length) for x in (train, test))
    return train.astype(np.int32), test.astype(np.int32)
