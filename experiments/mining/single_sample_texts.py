"""Retrieval of long texts where only one pair of query and document fits on the device, by orthogonal pairs."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.engine import compare, run
from experiments.mining._long_texts import text_rows
from experiments.mining._single_samples import METHODS, Method, Tuned, arm, embed, isolated_pairs, retrieval, untrained

CLAIM: Any = {"baseline": "InfoNCE, batches of 32", "better": {"ndcg_at_10": "higher", "recall_at_1": "higher"}}
LENGTHS = {"short documents": 1.0, "short and long": 0.5}
"""of the pairs of two more arms: how many documents are cut to their beginning"""
TUNED = {
    "InfoNCE, batches of 1": Tuned(1e-3, 0.1),
    "InfoNCE, batches of 2": Tuned(1e-3, 0.1),
    "InfoNCE, batches of 8": Tuned(1e-3, 0.05),
    "InfoNCE, batches of 32": Tuned(1e-3, 0.1),
    "orthogonal, single pairs": Tuned(1e-3, 0.9),
}


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in how they use a batch, and in what was tuned for each."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/single_sample_texts"
    arms: tuple[str, ...] = ()
    steps: int = 300
    batch_size: int = 32
    """pairs of query and document read for each step, in every arm"""
    evaluate_every: int = 100
    checkpoint_every: int = 300
    buckets: int = 2048
    """of hashed words"""
    hidden: int = 0
    """of the encoder; 0: it is linear"""
    dimensions: int = 256
    learning_rate: float | None = None
    """of Adam; None: as tuned for each arm"""
    setting: float | None = None
    """temperature of InfoNCE, or share of negatives among the orthogonal pairs; None: as tuned for each arm"""
    validate: bool = False
    """hold out a fifth of the training rows and search among those: for tuning"""


def main(config: Config):
    """Train all arms and report."""
    splits = text_rows(config.buckets, config.validate)
    single = METHODS["orthogonal, single pairs"]
    cut = {f"orthogonal, {name}": single._replace(prepare=shortened(share)) for name, share in LENGTHS.items()}
    methods = {name: METHODS[name] for name in TUNED} | cut
    arms = {name: tuned_arm(config, name, method) for name, method in methods.items()}

    @jax.jit
    def evaluate(state, data):
        return retrieval(*(embed(state.params, data["test"][name]) for name in ("query", "document")))

    records = run(config, arms, lambda seed: splits, evaluate, steps_per_call=20, **CLAIM)
    folder = str(Path(config.out) / "without_training")
    compare(dataclasses.replace(config, out=folder, arms=()), untrained(config, splits["test"]))
    return records


def tuned_arm(config: Config, name: str, method: Method):
    """An arm with what was tuned for it; arms of other lengths take what was tuned for single pairs."""
    return arm(config, config.buckets, TUNED.get(name, TUNED["orthogonal, single pairs"]), method)


def shortened(share: float):
    """Isolated pairs, in a share of which the document is cut to its beginning."""

    def prepare(key: jax.Array, rows: Any, share_of_negatives: float):
        key, draw = jax.random.split(key)
        cut = jax.random.uniform(draw, (len(rows["query"]), 1)) < share
        document = jnp.where(cut, rows["short"], rows["document"])
        return isolated_pairs(key, {"query": rows["query"], "document": document}, share_of_negatives)

    return prepare
