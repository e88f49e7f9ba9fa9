"""A tiny model trained on a little clean text chooses what a larger one reads, which ends on the clean text itself.

Claim: of a pool that is mostly noise, the windows with the lowest loss under a tiny model that was trained on clean
  text make a better model of clean text than all windows do at the same number of tokens, than those with the highest
  loss, and than the clean text alone, many times over; the clean text in the last tenth of the run makes it better
  still.
Data: twelve text domains in windows of 32 bytes. Clean is edited prose: Python's documentation, movie reviews and
  newspaper articles. Each seed draws 640 windows of it, by equal parts, for the tiny model and for the end, and a pool
  of 30 000 other windows in their natural proportions, three quarters of them whole e-mails of spam with headers and
  encoded attachments; the clean domains are 3 % of it. A filter keeps 12 000. A run is 400 steps of 32 windows.
  `python -m experiments.datasets fetch python_text sentiment newsgroups spam`.
  Losses are in nats a byte on 512 held-out windows of each domain: "clean" is the mean over the three clean domains,
  "others" over the other nine.
Command: `python -m experiments clean_text_filter`
Reference: Ankner et al., Perplexed by perplexity: perplexity-based data pruning with small reference models, 2024
  (arXiv 2405.20541); Yang et al., TinyHelen's first curriculum, 2024 (arXiv 2501.00522), whose proxies are tiny models
  of cleaned text.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import compare
from experiments.shared import byte_runs
from experiments.shared.text_domains import DOMAINS, Split, by_domain, byte_losses, text_domains
from minibatch_jax import weights_of
from minibatch_jax.mixing import two_phase
from minibatch_jax.selection import keep_bottomk, keep_topk

CLEAN = tuple(DOMAINS.index(name) for name in ("prose", "movies", "news"))
IS_CLEAN = np.isin(np.arange(len(DOMAINS)), CLEAN)
TINY = byte_runs.Size(width=16, depth=1)
ARMS = {
    "all": ("all", 0.0),
    "lowest loss": ("lowest", 0.0),
    "all, clean end": ("all", 0.1),
    "highest loss, clean end": ("highest", 0.1),
    "random, clean end": ("random", 0.1),
    "lowest loss, clean end": ("lowest", 0.1),
    "lowest loss, clean throughout": ("lowest", 0.1),
    "clean alone": ("lowest", 1.0),
}
"""arm -> which windows of the pool, and the share of clean windows in all of the run"""
BASELINES = {name: "all" if name in ("lowest loss", "clean alone") else "all, clean end" for name in ARMS}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the windows they read, and read as many."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/clean_text_filter"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    steps: int = 400
    warmup: int = 20
    learning_rate: float = 8e-3
    pool: int = 30_000
    keep: int = 12_000
    """windows of the pool that a filter keeps"""
    clean: int = 640
    """windows of the clean set, an equal number of each clean domain"""
    tiny_steps: int = 300
    """of the tiny model, on the clean set"""
    validate: bool = False
    """hold out a part of the training documents: for tuning"""


def main(config: Config):
    """Train all arms with all seeds, and report."""
    splits = text_domains(byte_runs.LENGTH, validate=config.validate)
    held_out = jnp.asarray(by_domain(splits["validation"]))

    @functools.lru_cache(maxsize=1)  # arms of a seed run one after another
    def texts(seed: int) -> tuple[Split, Split, jax.Array]:
        pool, clean = draw_texts(config, splits["train"], seed)
        return pool, clean, tiny_losses(config, clean["tokens"], pool["tokens"], seed)

    def arm(name: str, seed: int) -> dict[str, Any]:
        pool, clean, losses = texts(seed)
        rows = chosen(ARMS[name][0], losses, config.keep, seed)
        tokens = jnp.asarray(np.concatenate([pool["tokens"][rows], clean["tokens"]]))
        is_clean = jnp.asarray(np.repeat(np.arange(2, dtype=np.int32), [len(rows), len(clean["tokens"])]))
        mixture, rates = schedule(config, name)
        run = byte_runs.start_run(seed, is_clean, 2)
        run = byte_runs.train(
            run, tokens, byte_runs.values(mixture, config.steps), byte_runs.values(rates, config.steps)
        )
        held = np.asarray(byte_runs.held_out_losses(run.params, held_out))
        return {
            "clean": held[IS_CLEAN].mean(),
            "others": held[~IS_CLEAN].mean(),
            "clean_share_of_kept": IS_CLEAN[pool["domain"][rows]].mean(),
            "epochs_of_clean_set": run.epochs()[1],
        }

    arms = {name: functools.partial(arm, name) for name in ARMS}
    baselines = {name: base for name, base in BASELINES.items() if name != base}
    return compare(config, arms, baseline=baselines, better={"clean": "lower"})


def draw_texts(config: Config, train: Split, seed: int) -> tuple[Split, Split]:
    """The pool, in natural proportions, and the clean set, an equal number of windows of each clean domain."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train["domain"]))
    each = config.clean // len(CLEAN)
    clean = np.concatenate([order[train["domain"][order] == domain][:each] for domain in CLEAN])
    pool = order[~np.isin(order, clean)][: config.pool]
    first, second = ({column: values[rows] for column, values in train.items()} for rows in (pool, clean))
    return first, second


def tiny_losses(config: Config, clean: np.ndarray, pool: np.ndarray, seed: int) -> jax.Array:
    """Loss of each window of the pool, in nats a byte, under a tiny model that was trained on the clean set."""
    run = byte_runs.start_run(seed, jnp.zeros(len(clean), jnp.int32), 1, TINY)
    rates = two_phase(config.tiny_steps, jnp.ones(1), jnp.ones(1), config.learning_rate, decay=0.5).learning_rate
    mixtures = jnp.ones((config.tiny_steps, 1))
    run = byte_runs.train(run, jnp.asarray(clean), mixtures, byte_runs.values(rates, config.tiny_steps), TINY)
    return score(run.params, jnp.asarray(pool))


@jax.jit
def score(params: Any, tokens: jax.Array) -> jax.Array:
    """Loss of each window `[N]` under the tiny model, 500 at a time."""
    apply = byte_runs.apply_of(TINY)
    blocks = tokens.reshape(-1, 500, tokens.shape[1])
    return jax.lax.map(lambda block: byte_losses(apply, params, block), blocks).reshape(-1)


def chosen(which: str, losses: jax.Array, keep: int, seed: int) -> np.ndarray:
    """Rows of the pool that an arm reads."""
    if which == "all":
        return np.arange(len(losses))
    if which == "random":
        return np.random.default_rng(seed).permutation(len(losses))[:keep]
    kept = weights_of({"lowest": keep_bottomk, "highest": keep_topk}[which](keep), jnp.ones(len(losses)), losses=losses)
    return np.flatnonzero(np.asarray(kept))


def schedule(config: Config, name: str) -> tuple[Any, Any]:
    """Mixture of the pool and the clean set, and learning rate, step by step."""
    share = ARMS[name][1]
    pool, clean = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    blend = (1 - share) * pool + share * clean
    at_the_end = name.endswith("end")
    first, second = (pool, clean) if at_the_end else (blend, blend)
    options = {"switch": 1 - share if at_the_end else 1.0, "warmup_steps": config.warmup}
    plan = two_phase(config.steps, first, second, config.learning_rate, **options)
    return plan.mixture, plan.learning_rate
