"""Digits in four orientations, retrieval among images never seen: which miners make the better embedding.

Task: handwritten digits of 8x8 pixels, turned by 0, 90, 180 and 270 degrees, each orientation a class of its own. The
  network learns from 1438 digits, in batches of 16 rows of 4 images of one class, and embeds in 32 dimensions. The
  scores are those of retrieval among the other 359 digits in all orientations: images never seen, of 40 known classes.
Rows: every miner sees the same forward pass and the same gradient of 64 rows, so that equal compute is an equal number
  of updates; what the choice itself costs is in the seconds. Miners of triplets train on the weighted distances of
  their pairs, miners of pairs on `contrastive_loss` of those they keep. Both have a baseline that knows nothing: a
  random negative for each positive (`mine_random`), and all pairs.
Signals: Euclidean distances of unit vectors, and labels.
Tuning: the learning rate of Adam is the best of 1e-4, 3e-4, 1e-3, 3e-3 and 1e-2 for `mine_random`, by mAP@R on
  a fifth of the training set that is held out, with seeds 100, 101 and 102 (`--validate`). Every miner takes it, and
  its own default arguments.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.datasets import arrays
from experiments.engine import gradient_arm, init_mlp, mlp
from experiments.leaderboard._race import Entry, Method, Outcome, made, name_of, race
from experiments.leaderboard._signals import missing_signals
from minibatch_jax import mining, value_and_grad
from minibatch_jax.metrics import retrieval_scores

NOUN = "mining"
BASELINE = "mine_random"
ALL_PAIRS = "all pairs"
PIXELS, DIMENSIONS, GROUPS, IMAGES = 64, 32, 16, 4
ROWS = GROUPS * IMAGES
TRIPLETS: tuple[Method, ...] = (
    mining.mine_all,
    mining.mine_angular,
    partial(mining.mine_distance_weighted, dimension=DIMENSIONS),
    mining.mine_easy,
    mining.mine_easy_hard,
    mining.mine_hard,
    mining.mine_random,
    mining.mine_semihard,
    mining.mine_violating,
)
PAIRS: tuple[Method, ...] = (
    mining.mine_hardest_pairs,
    mining.mine_multi_similarity,
    mining.mine_pair_margin,
    mining.mine_uniform_distances,
)
METHODS = (*TRIPLETS, *PAIRS)
NO_ENTRY = {
    "mine_ranges": "by default it keeps all pairs",
    "mine_ranks": "by default it keeps all pairs",
}
"""factories of the noun that no signal would bring in"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters, the same for every method."""

    seeds: tuple[int, ...] = (0, 1, 2)
    out: str = "runs/leaderboard/retrieval"
    arms: tuple[str, ...] = ()
    """names of the methods to run; empty: all"""
    budget: int = 230_400
    """compute of a run, in rows forwarded + 2 x rows differentiated: 1200 updates on 64 rows"""
    hidden: int = 128
    learning_rate: float = 3e-3
    """of Adam"""
    validate: bool = False
    """test on the last fifth of the training set, which is not trained on: for tuning"""


def main(config: Config) -> Outcome:
    """Run the methods whose signals the task has."""
    optimizer = optax.adam(config.learning_rate)
    pairs = jax.ShapeDtypeStruct((ROWS, ROWS), jnp.float32)
    signals = {"distances": pairs, "labels": jax.ShapeDtypeStruct((ROWS,), jnp.int32)}
    missing = {name_of(m): missing_signals(made(m, 0), pairs, signals) for m in METHODS}
    entries = {name_of(m): entry(config, optimizer, m) for m in METHODS if not missing[name_of(m)]}
    entries[ALL_PAIRS] = entry(config, optimizer, mining.mine_ranges)
    baseline = {name_of(m): BASELINE for m in TRIPLETS} | {name_of(m): ALL_PAIRS for m in PAIRS}
    better = {"map_at_r": "higher", "recall_at_1": "higher"}
    return Outcome(race(config, entries, partial(data, config), evaluate, baseline=baseline, better=better), missing)


def entry(config: Config, optimizer: optax.GradientTransformation, method: Method) -> Entry:
    """The arm and the costs of a method."""
    loss = None if method in TRIPLETS else mining.contrastive_loss
    mined = value_and_grad(distances, made(method, 0), items="distances", loss=loss)

    def start(key):
        params_key, key = jax.random.split(key)
        params = init_mlp(params_key, (PIXELS, config.hidden, DIMENSIONS))
        return {"params": params, "selection_state": made(method, key).init(jnp.ones((ROWS, ROWS)))}

    def gradient(state, batch):
        images, labels = batch["image"].reshape(ROWS, PIXELS), jnp.repeat(batch["label"], IMAGES)
        _, grads, mining_state = mined(state.params, images, state.selection_state, labels=labels)
        return grads, {"selection_state": mining_state}, {}

    return Entry(gradient_arm(optimizer, start, gradient), GROUPS, 3 * ROWS)


def distances(params: Any, images: jax.Array) -> jax.Array:
    """Euclidean distances of the embeddings `[B, B]`."""
    return mining.euclidean_distances(mining.normalize_embeddings(mlp(params, images)))


def data(config: Config, seed: int) -> dict[str, Any]:
    """Splits train, rows of 4 images of one class, and test, images with labels."""
    parts = ("train[:80%]", "train[80%:]") if config.validate else ("train", "test")
    train, test = (turned(arrays("digits", part)) for part in parts)
    return {"train": rows_of_one_class(*train, seed), "test": dict(zip(("image", "label"), test))}


def turned(examples: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Images `[4 N, 64]` in four orientations with pixels in [0, 1], and their classes, 40 in all."""
    image = examples["image"][..., 0].astype(np.float32) / 16
    every = np.concatenate([np.rot90(image, turns, (1, 2)).reshape(len(image), -1) for turns in range(4)])
    return every, np.concatenate([examples["label"] + 10 * turns for turns in range(4)]).astype(np.int32)


def rows_of_one_class(image: np.ndarray, label: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Rows `image` [N, 4, 64] of one class, `label` [N], grouped by the seed; images that fill no row are left out."""
    rng, rows = np.random.default_rng([seed, 1]), []
    for name in np.unique(label):
        own = rng.permutation(np.flatnonzero(label == name))
        rows.append(own[: len(own) // IMAGES * IMAGES].reshape(-1, IMAGES))
    index = np.concatenate(rows)
    return {"image": image[index], "label": label[index[:, 0]]}


@jax.jit
def evaluate(state, data):
    """How well images never seen find others of their class."""
    embeddings = mining.normalize_embeddings(mlp(state.params, data["test"]["image"]))
    scores = retrieval_scores(embeddings, data["test"]["label"])
    return {"map_at_r": scores.map_at_r, "recall_at_1": scores.recall[0]}
