"""Batches of image-text pairs chosen by the concepts of their captions: balanced, most concepts, or those of a task.

Claim: batches whose concepts are balanced (CABS-DM) help classification and rare concepts, batches of the captions with
  most concepts (CABS-FM) help retrieval, and a distribution of concepts given from outside serves a task.
Data: the emoji of `jest_race` with their right texts. The words of the keywords are the concepts: 976, 6.4 in a text,
  from flags and faces to words of three emoji. The task is animals, plants and food, 194 of the 1242 emoji to train on.
Command: `python -m experiments concept_pairs`
Minutes: 3 on one busy CPU core
Expected: mean ± standard error over 3 seeds after 600 updates of 64 pairs in every arm. Recall at 5 of the texts of new
  emoji and of a new vendor's drawings, among all and among those of the task; average precision of the images of a new
  vendor that a word finds, over the third of rarest words

  | arm                       | new emoji     | new vendor    | task, emoji   | task, vendor  | rare words    |
  |---------------------------|---------------|---------------|---------------|---------------|---------------|
  | uniform                   | 0.272 ± 0.004 | 0.242 ± 0.004 | 0.261 ± 0.021 | 0.330 ± 0.005 | 0.043 ± 0.002 |
  | CABS-DM, 1/2              | 0.249 ± 0.003 | 0.232 ± 0.013 | 0.198 ± 0.022 | 0.273 ± 0.021 | 0.043 ± 0.003 |
  | CABS-DM, 1/5              | 0.180 ± 0.005 | 0.168 ± 0.005 | 0.160 ± 0.020 | 0.204 ± 0.005 | 0.047 ± 0.001 |
  | CABS-DM for the task, 1/2 | 0.215 ± 0.005 | 0.183 ± 0.003 | 0.247 ± 0.027 | 0.409 ± 0.015 | 0.031 ± 0.004 |
  | CABS-FM, 1/2              | 0.216 ± 0.006 | 0.148 ± 0.007 | 0.226 ± 0.017 | 0.137 ± 0.002 | 0.031 ± 0.000 |
  | CABS-FM, 1/5              | 0.071 ± 0.008 | 0.027 ± 0.001 | 0.124 ± 0.008 | 0.050 ± 0.011 | 0.024 ± 0.003 |

  Targets of the task do what they are for: twice as many pairs of the task in a batch (0.31 of 0.16), and its drawings
  by a new vendor are found better by 7.9 points (five standard errors), for 6 points on all pairs; its new emoji not.
  No gain otherwise. Balanced batches hold more words (340 of 277), yet retrieve worse, and find rare words no better
  (0.3 points at 1/5, one standard error). The captions with most words are chosen again and again: with 1242 emoji, a
  fifth of the candidates by a fixed order is much the same fifth each time, and the others are never seen.
  An update takes 2.9 ms of CPU for uniform, 5.5 ms for CABS-DM, 1/5, and 2.9 ms for CABS-FM, 1/5: the choice is half of
  a step of CABS-DM and nothing of one of CABS-FM. No arm scores by a forward pass.
Verdict: partly: a distribution of concepts given from outside serves its task on drawings of known emoji; neither
  CABS-DM nor CABS-FM beats uniform batches on pairs that are seen many times.
Tuning: none by arm; the learning rate is the best of {1e-3, 3e-3, 1e-2} for uniform batches in `jest_race`.
Reference: Concept-aware batch sampling improves language-image pretraining, 2026 (arXiv 2511.20643).
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, descend, without_losses
from experiments.selection._emoji_pairs import draw, emoji_pairs, word_ids
from experiments.selection._emoji_towers import Towers, pair_losses, recalls, towers, unit, vectors_of_test
from minibatch_jax import normalize, value_and_grad
from minibatch_jax.selection import keep_by_concept_balance, keep_by_concept_count

TASK = (1, 3)
"""the categories Animals & Nature and Food & Drink"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in how the pairs of a batch are chosen."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/concept_pairs"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    updates: int = 600
    keep: int = 64
    """pairs to train on, in every arm"""
    cap: int = 10
    """of CABS-DM: how often a word may come in a batch"""
    width: int = 32
    depth: int = 2
    dimensions: int = 64
    learning_rate: float = 1e-2
    validate: bool = False
    """test on a fifth of the training emoji, left out there: for tuning"""


def main(config: Config):
    """Train all arms and report."""
    splits = emoji_pairs(config.validate)
    train = {**splits["train"], "ids": word_ids(splits["train"]["words"])}
    data = jax.tree.map(jnp.asarray, {**splits, "train": train})
    vocabulary = train["words"].shape[1]
    model = towers(vocabulary, config.width, config.depth, config.dimensions)
    of_task = jnp.asarray(train["words"][np.isin(train["category"], TASK)].sum(0))
    balance = functools.partial(keep_by_concept_balance, config.keep, vocabulary)
    rules = {
        "uniform": (1, optax.identity()),
        "CABS-DM, 1/2": (2, balance(config.cap)),
        "CABS-DM, 1/5": (5, balance(config.cap)),
        "CABS-DM for the task, 1/2": (2, balance(config.keep, targets=of_task)),
        "CABS-FM, 1/2": (2, keep_by_concept_count(config.keep)),
        "CABS-FM, 1/5": (5, keep_by_concept_count(config.keep)),
    }
    arms = {name: functools.partial(race, config, model, *rules[name], data) for name in rules}
    better = {f"{test}_recall_at_5": "higher" for test in ("new_emoji", "new_vendor")}
    better |= {f"{test}_of_the_task": "higher" for test in better} | {"precision_of_rare_words": "higher"}
    return compare(config, arms, baseline="uniform", better=better)


def race(config: Config, model: Towers, pool: int, rule: Any, data: dict[str, Any], seed: int) -> dict[str, float]:
    """Train on the pairs that a rule keeps of `pool` times as many, and score the result."""
    start, fit = program(config, model, pool, rule)
    init_key, key = jax.random.split(jax.random.key(seed))
    (params, _), seen = fit(start(init_key), jax.random.split(key, config.updates), data["train"])
    return {name: float(value) for name, value in (scores(model, params, data) | seen).items()}


@functools.cache
def program(config: Config, model: Towers, pool: int, rule: Any):
    """`start(key)` gives parameters with the optimizer's state, and `fit(start, keys, train)` makes an update a key.

    `fit` returns the same, and what the batches held.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.updates))
    selection, size = optax.chain(rule, normalize()), config.keep * pool

    def start(key):
        params = model.init(key)
        return params, optimizer.init(params)

    def update(train, carry, key):
        params, opt_state = carry
        rows, vendors = draw(key, len(train["words"]), size)

        def losses(params, batch):
            rows, vendors = batch
            pairs = {"image": train["image"][rows, vendors], "words": train["words"][rows]}
            return jnp.sum(pair_losses(params, model.fine(params, pairs)), axis=1)

        fn = value_and_grad(losses, selection, gather=config.keep, score_fn=without_losses)
        state = selection.init(jnp.zeros(size))
        (_, aux), grads, _ = fn(params, (rows, vendors), state, concepts=train["ids"][rows])
        chosen = rows[aux.indices]
        seen = {
            "words_of_a_pair": jnp.mean(jnp.sum(train["words"][chosen], axis=1)),
            "words_of_a_batch": jnp.sum(jnp.any(train["words"][chosen] > 0, axis=0)),
            "pairs_of_the_task": jnp.mean(jnp.isin(train["category"][chosen], jnp.array(TASK))),
        }
        return descend(optimizer, grads, params, opt_state), seen

    @jax.jit
    def fit(carry, keys, train):
        carry, seen = jax.lax.scan(functools.partial(update, train), carry, keys)
        return carry, jax.tree.map(jnp.mean, seen)

    return start, fit


@functools.partial(jax.jit, static_argnums=0)
def scores(model: Towers, params: Any, data: dict[str, Any]) -> dict[str, jax.Array]:
    """Recall at 5, also of the images and texts of the task alone, and how well words find images of a new vendor."""
    found = {}
    for name in ("new_emoji", "new_vendor"):
        images, texts, own = vectors_of_test(model, params, data[name])
        of_task = jnp.isin(data[name]["category"], jnp.array(TASK))
        found[f"{name}_recall_at_5"] = recalls(images @ texts.T, own)[1]
        found[f"{name}_recall_at_5_of_the_task"] = recalls(images @ texts.T, own, of_task)[1]
    precision = average_precision(unit(params["text"]) @ images.T, data["new_vendor"]["words"][own].T > 0)
    third = len(precision) // 3
    return found | {
        "precision_of_common_words": jnp.mean(precision[:third]),
        "precision_of_rare_words": jnp.mean(precision[-third:]),
    }


def average_precision(similarities: jax.Array, positive: jax.Array) -> jax.Array:
    """Average precision of each row `[V]` of similarities `[V, N]`; 0 for a row without positives."""
    order = jnp.argsort(-similarities, axis=1)
    hits = jnp.take_along_axis(positive, order, axis=1)
    precision = jnp.cumsum(hits, axis=1) / jnp.arange(1, hits.shape[1] + 1)[None]
    return jnp.sum(jnp.where(hits, precision, 0), axis=1) / jnp.maximum(jnp.sum(hits, axis=1), 1)
