"""Retrieval of long texts where only one pair of query and document fits on the device, by orthogonal pairs.

Claim: with long documents a batch is one pair of query and document; orthogonal pairs train there, where InfoNCE has no
  negatives, and come close to InfoNCE with large batches. Training on a mixture of short and long documents helps.
Data: 6175 posts of newsgroups, one for each subject. The first 12 words, most of them the subject, are the query, the
  rest is the document: at least 100 words, 197 in the median, 11 912 at most. Both become counts of hashed words,
  weighted by rarity; 4940 pairs to train on, 1235 to search among. `python -m experiments.datasets fetch newsgroups`.
Command: `python -m experiments single_sample_texts`
Minutes: 2 on one CPU core
Expected: mean ± standard error over 3 seeds of initial parameters and batches (the texts are the same):

  arm                          recall@1        nDCG@10         cosine of pairs, others
  InfoNCE, batches of 1        0.215 ± 0.001   0.308 ± 0.001   0.164, 0.020
  InfoNCE, batches of 2        0.259 ± 0.004   0.370 ± 0.005   0.196, 0.001
  InfoNCE, batches of 8        0.274 ± 0.004   0.387 ± 0.003   0.201, 0.007
  InfoNCE, batches of 32       0.279 ± 0.009   0.403 ± 0.008   0.227, -0.001
  orthogonal, single pairs     0.238 ± 0.005   0.341 ± 0.003   0.213, 0.052
  orthogonal, short documents  0.228 ± 0.005   0.326 ± 0.004   0.225, 0.081
  orthogonal, short and long   0.230 ± 0.010   0.333 ± 0.005   0.217, 0.065
  untrained                    0.215 ± 0.001   0.308 ± 0.001   0.164, 0.020
  inputs                       0.386           0.520           0.162, 0.019

  Single pairs learn, which InfoNCE in batches of 1 does not: its gradient is exactly 0. But they close a third of the
  gap in nDCG@10 between no training and InfoNCE in batches of 32, less than InfoNCE in batches of 2. Documents cut to
  their first 48 words are worse to train on, and the mixture is between. The hashed words themselves are better than
  any encoder: 256 numbers do not hold 2048, and 5000 pairs teach too little.
Verdict: partly: orthogonal pairs learn where InfoNCE cannot, but are a third of the way to large batches, behind
  batches of 2; a mixture of short and long documents does not help.
Cost: equal in examples. Each step reads 32 pairs and encodes 64 texts; smaller batches are groups of these pairs whose
  gradients are averaged, which is gradient accumulation. Nothing is scored: a step is one forward and backward pass.
Tuning: by nDCG@10 with --validate and seed 10. Orthogonal pairs: rates {1e-3, 3e-4} with a share of negatives of
  0.75, {1e-3, 3e-3} with 0.9, and 1e-3 with 0.95. InfoNCE in batches of 32: 1e-3 with temperatures {0.05, 0.1}, 3e-3
  with 0.05; in smaller batches one setting. Before that the encoder, with InfoNCE in batches of 32: one with a hidden
  layer learned little (nDCG@10 of 0.11, against 0.43 of the linear one).
Reference: Saad-Falcon et al., Benchmarking and building long-context retrieval models with LoCo and M2-BERT, 2024
  (arXiv 2402.07440).
"""

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
