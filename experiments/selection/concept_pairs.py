"""Batches of image-text pairs chosen by the concepts of their captions: balanced, most concepts, or those of a task.

Reference: Concept-aware batch sampling improves language-image pretraining, 2026 (arXiv 2511.20643).
"""

import functools
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, descend, without_losses
from experiments.selection._emoji_pairs import STYLES, emoji_pairs, word_ids
from experiments.selection._emoji_towers import Towers, pair_losses, recalls, towers, unit
from minibatch_jax import normalize, value_and_grad
from minibatch_jax.selection import keep_by_concept_balance, keep_by_concept_count

VENDORS = len(STYLES) - 1
"""whose drawings are trained on; those of the last one are for the test"""
TASK = (1, 3)
"""the categories Animals & Nature and Food & Drink"""
RATES = {
    "uniform": 3e-3,
    "CABS-DM": 3e-3,
    "CABS-DM, words of the task": 3e-3,
    "CABS-FM": 3e-3,
    "CABS-FM, words of the task": 3e-3,
}


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
    pool: int = 5
    """times as many pairs to choose from, except in the uniform arm"""
    cap: int = 10
    """of CABS-DM: how often a word may come in a batch"""
    width: int = 32
    depth: int = 2
    dimensions: int = 64
    learning_rate: float | None = None
    """None: as tuned for each arm"""
    validate: bool = False
    """test on a fifth of the training emoji, left out there: for tuning"""


def main(config: Config):
    """Train all arms and report."""
    data = jax.tree.map(jnp.asarray, with_tests(emoji_pairs(config.validate)))
    words = data["train"]["words"]
    model = towers(words.shape[1], config.width, config.depth, config.dimensions)
    of_task = jnp.sum(words * jnp.isin(data["train"]["category"], jnp.array(TASK))[:, None], axis=0)
    balance = functools.partial(keep_by_concept_balance, config.keep, words.shape[1])
    rules = {
        "uniform": None,
        "CABS-DM": balance(config.cap),
        "CABS-DM, words of the task": balance(config.keep, targets=of_task),
        "CABS-FM": keep_by_concept_count(config.keep),
        "CABS-FM, words of the task": keep_by_concept_count(config.keep, targets=of_task),
    }
    return compare(config, {name: functools.partial(fit, config, model, name, rules[name], data) for name in rules})


def fit(config: Config, model: Towers, name: str, rule: Any, data: dict[str, Any], seed: int) -> dict[str, float]:
    """Train with one rule and score the result."""
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate or RATES[name], config.updates))
    selection = normalize() if rule is None else optax.chain(rule, normalize())
    candidates = config.keep if rule is None else config.keep * config.pool

    def update(train, carry, key):
        params, opt_state = carry
        batch = draw(key, train, candidates)

        def losses(params, batch):
            pairs = {"image": train["image"][batch["emoji"], batch["vendor"]], "words": train["words"][batch["emoji"]]}
            return jnp.sum(pair_losses(params, model.fine(params, pairs)), axis=1)

        fn = value_and_grad(losses, selection, gather=config.keep, score_fn=without_losses)
        start = selection.init(jnp.zeros(candidates))
        (_, aux), grads, _ = fn(params, batch, start, concepts=train["ids"][batch["emoji"]])
        chosen = batch["emoji"][aux.indices]
        seen = {
            "words_of_a_pair": jnp.mean(jnp.sum(train["words"][chosen], axis=1)),
            "words_of_a_batch": jnp.sum(jnp.any(train["words"][chosen] > 0, axis=0)),
            "pairs_of_the_task": jnp.mean(jnp.isin(train["category"][chosen], jnp.array(TASK))),
        }
        return descend(optimizer, grads, params, opt_state), seen

    @jax.jit
    def train_all(carry, keys, train):
        (params, _), seen = jax.lax.scan(functools.partial(update, train), carry, keys)
        return params, jax.tree.map(jnp.mean, seen)

    init_key, key = jax.random.split(jax.random.key(seed))
    params = model.init(init_key)
    arguments = (params, optimizer.init(params)), jax.random.split(key, config.updates), data["train"]
    compiled = train_all.lower(*arguments).compile()
    started = time.process_time()
    params, seen = jax.block_until_ready(compiled(*arguments))
    milliseconds = (time.process_time() - started) * 1000 / config.updates
    found = {**_scores(model, params, data["tests"]), **seen, "cpu_ms_per_update": milliseconds}
    return {name: float(value) for name, value in found.items()}


def draw(key: jax.Array, train: dict[str, jax.Array], size: int) -> dict[str, jax.Array]:
    """As many different emoji, and which vendor's drawing of each."""
    rows_key, vendor_key = jax.random.split(key)
    rows = jax.random.permutation(rows_key, len(train["words"]))[:size]
    return {"emoji": rows, "vendor": jax.random.randint(vendor_key, (size,), 0, VENDORS)}


def with_tests(splits: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """The pairs to train on with the ids of their words, and two tests: other emoji, and the same by another vendor."""
    train = {**splits["train"], "ids": word_ids(splits["train"]["words"])}
    of_vendor = {**splits["train"], "image": splits["train"]["image"][:, VENDORS:]}
    return {
        "train": {**train, "image": train["image"][:, :VENDORS]},
        "tests": {"new_emoji": splits["test"], "new_vendor": of_vendor},
    }


@functools.partial(jax.jit, static_argnums=0)
def _scores(model, params, tests):
    found = {}
    for name, test in tests.items():
        emoji, drawings = test["image"].shape[:2]
        images, own = test["image"].reshape(-1, *test["image"].shape[2:]), jnp.repeat(jnp.arange(emoji), drawings)
        image_vectors, text_vectors = model.fine(params, {"image": images, "words": test["words"]})
        similarities = image_vectors @ text_vectors.T
        of_task = jnp.isin(test["category"], jnp.array(TASK))[own]
        found[f"{name}_recall_at_5"] = recalls(similarities, own)[1]
        found[f"{name}_recall_at_5_task"] = recalls(similarities, own, of_task)[1]
    precision, present = average_precision(unit(params["text"]) @ image_vectors.T, test["words"][own].T > 0)
    third = len(precision) // 3
    for name, part in {"common": slice(third), "rare": slice(-third, None)}.items():
        found[f"precision_of_{name}_words"] = jnp.sum(precision[part]) / jnp.sum(present[part])
    return found


def average_precision(scores: jax.Array, positive: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Average precision of each row `[V]` of scores `[V, N]`, 0 for a row without positives, and whether it has any."""
    order = jnp.argsort(-scores, axis=1)
    hits = jnp.take_along_axis(positive, order, axis=1)
    precision = jnp.cumsum(hits, axis=1) / jnp.arange(1, scores.shape[1] + 1)
    count = jnp.sum(hits, axis=1)
    return jnp.sum(jnp.where(hits, precision, 0), axis=1) / jnp.maximum(count, 1), count > 0
