"""Few labeled texts: contrastive training on their pairs, then a head (SetFit's two steps), against fine-tuning.

Claim: with a few labels for each class, an encoder that is trained on pairs of labeled texts, with a linear head on top
  afterwards, classifies better than one that is fine-tuned with the head.
Data: Reuters, 8 classes; a pool of 1500 training texts and 1000 test texts are drawn by the seed, and of the pool 4 or
  16 texts of each class have a label. A transformer of 2 blocks and 32 channels reads the first 64 bytes of a text. No
  sentence encoder that was trained elsewhere is used, as SetFit's is: it is trained to predict the next byte of the
  unlabeled pool, for 600 steps. All arms that train it further take 100 steps on 32 labeled texts. `python -m
  experiments.datasets fetch reuters_8`
Command: `python -m experiments few_shot_texts`
Minutes: 3 on one CPU core
Expected: test accuracy, mean ± standard error over 5 seeds

  | arm                                 | 4 labels of a class | 16 labels     |
  |-------------------------------------|---------------------|---------------|
  | fine-tuning                         | 0.347 ± 0.030       | 0.499 ± 0.013 |
  | cosines of pairs, then a head       | 0.449 ± 0.023       | 0.509 ± 0.014 |
  | supervised contrastive, then a head | 0.353 ± 0.018       | 0.481 ± 0.022 |
  | head alone                          | 0.381 ± 0.019       | 0.424 ± 0.020 |
  | head on hashed terms                | 0.821 ± 0.017       | 0.918 ± 0.011 |

  Reproduced: with 4 labels the two steps with SetFit's loss, the squared error of cosines, gain 10.3 ± 3.0 points over
  fine-tuning, paired by seed, and with 16 they match it (1.0 ± 1.6). The supervised contrastive loss does not gain
  (0.6 ± 2.8 and -1.8 ± 1.9). The head alone is 3.4 ± 3.0 ahead of fine-tuning with 4 labels and 7.5 ± 1.5 behind it
  with 16. But a transformer of bytes that has read 1500 texts is no sentence encoder: a head on hashed words is right
  on 82 % and 92 %, so that here nobody should train on pairs.
Verdict: reproduced
Tuning: learning rate of the three arms that train the transformer in {1e-3, 3e-3} by the mean over 4 and 16 labels with
  --validate, on the pool of seed 10 with two seeds of the training; 300 steps of fine-tuning were no better than 100.
Reference: Tunstall et al., Efficient few-shot learning without prompts, 2022 (arXiv 2209.11055).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.engine import compare, minimize, weighted_gradient
from experiments.selection._byte_classifiers import (
    Size,
    Standard,
    all_features,
    features,
    fine_tuned,
    first_bytes,
    pretrained,
    standard_of,
    windows,
)
from experiments.selection._label_pools import Task, draw_texts, hashed_features
from experiments.selection._linear_heads import Fit, logits_of, train_head
from minibatch_jax.mining import negative_mask, positive_mask, similarity_regression_loss, supcon_loss

TASK: Task = "reuters_8"
HEAD = Fit(steps=200, learning_rate=0.1, scale=10.0, decay=1e-3)
"""on features of unit length; the same for all arms with a separate head"""
PAIR_LOSSES: dict[str, Callable[..., jax.Array]] = {
    "cosines of pairs, then a head": similarity_regression_loss,
    "supervised contrastive, then a head": supcon_loss,
}
"""losses of each anchor; the first is SetFit's"""
TUNED = {"fine-tuning": 1e-3, "cosines of pairs, then a head": 1e-3, "supervised contrastive, then a head": 3e-3}


@dataclass(frozen=True)
class Config:
    """All arms that train the transformer take as many steps on as many texts."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/few_shot_texts"
    arms: tuple[str, ...] = ()
    shots: tuple[int, ...] = (4, 16)
    """labels of each class"""
    steps_before: int = 600
    """on the unlabeled pool"""
    steps: int = 100
    length: int = 64
    """bytes of a text that the transformer reads"""
    width: int = 32
    learning_rate: float | None = None
    """None: as tuned for each arm"""
    validate: bool = False
    """take test rows from the training split: for tuning"""


class Problem(NamedTuple):
    """Tokens of pool and test set, hashed features of both, and the transformer trained on the unlabeled pool."""

    tokens: jax.Array
    label: np.ndarray
    test_tokens: jax.Array
    test_label: np.ndarray
    hashed: tuple[np.ndarray, np.ndarray]
    classes: int
    network: Any
    standard: Standard


def size_of(config: Config) -> Size:
    """Of the transformer."""
    return Size(config.length, config.width)


def main(config: Config):
    """Train with all numbers of labels and report."""
    arms: dict[str, Callable[[int], Any]] = {name: functools.partial(by_shots, config, name) for name in ARMS}
    better: Any = {f"accuracy, {shots} labels": "higher" for shots in config.shots}
    options: Any = {"baseline": "fine-tuning", "better": better, "xlabel": "labels of each class"}
    return compare(config, arms, summary=by_number, **options)


def by_shots(config: Config, name: str, seed: int) -> dict[int, dict[str, float]]:
    """Test accuracy by the number of labels of each class; more labels include the fewer."""
    problem = draw_problem(config, seed)
    found = {}
    for shots in config.shots:
        rows = rows_of_each_class(problem.label, problem.classes, shots)
        predicted = ARMS[name](config, name, problem, rows, jax.random.fold_in(jax.random.key(seed), shots))
        found[shots] = {"accuracy": float(np.mean(np.argmax(predicted, axis=1) == problem.test_label))}
    return found


@functools.lru_cache(maxsize=1)
def draw_problem(config: Config, seed: int) -> Problem:
    """Pool and test set of a seed, and a transformer that has read the pool without its labels."""
    texts, size = draw_texts(TASK, config.validate, seed), size_of(config)
    unlabeled = jnp.asarray(windows(texts.pool, size.length))
    network = pretrained(unlabeled, jax.random.key(seed), size=size, steps=config.steps_before, learning_rate=3e-3)
    tokens, test_tokens = (jnp.asarray(first_bytes(part, size.length)) for part in (texts.pool, texts.test))
    hashed = hashed_features(texts.pool, texts.test)
    standard = standard_of(all_features(network, tokens, size=size))
    parts = tokens, texts.label, test_tokens, texts.test_label, (hashed[0], hashed[1]), texts.classes
    return Problem(*parts, network, standard)


def rows_of_each_class(label: np.ndarray, classes: int, shots: int) -> np.ndarray:
    """The first rows of each class, in turns of one row each."""
    of_class = [np.flatnonzero(label == c)[:shots] for c in range(classes)]
    return np.array([rows[turn] for turn in range(shots) for rows in of_class if turn < len(rows)])


def whole_network(config: Config, name: str, problem: Problem, rows: np.ndarray, key: jax.Array) -> jax.Array:
    """Train transformer and head together."""
    tokens, labels, count = padded(config, problem, rows)
    options = {"size": size_of(config), "steps": config.steps, "classes": problem.classes}
    rate = config.learning_rate or TUNED[name]
    found = fine_tuned(problem.network, problem.standard, tokens, labels, count, key, learning_rate=rate, **options)
    vectors = all_features(found.network, problem.test_tokens, size=size_of(config))
    return problem.standard(vectors) @ found.head


def pairs_then_head(config: Config, name: str, problem: Problem, rows: np.ndarray, key: jax.Array) -> jax.Array:
    """Train the transformer on pairs, then a head on what it says of the same rows."""
    rate = config.learning_rate or TUNED[name]
    tokens, labels, count = padded(config, problem, rows)
    network = paired(
        problem.network, problem.standard, tokens, labels, count, key, rate, name, size_of(config), config.steps
    )
    return head_alone(config, name, problem._replace(network=network), rows, key)


def head_alone(config: Config, name: str, problem: Problem, rows: np.ndarray, key: jax.Array) -> jax.Array:
    """Train a head on what the transformer says of the rows."""
    parts = problem.tokens[rows], problem.test_tokens
    vectors = (all_features(problem.network, part, size=size_of(config)) for part in parts)
    labeled, tested = (unit(problem.standard(part)) for part in vectors)
    return by_head(problem, labeled, tested, rows)


def hashed_terms(config: Config, name: str, problem: Problem, rows: np.ndarray, key: jax.Array) -> jax.Array:
    """Train a head on hashed terms, without the transformer."""
    return by_head(problem, jnp.asarray(problem.hashed[0][rows]), jnp.asarray(problem.hashed[1]), rows)


ARMS: dict[str, Callable[..., jax.Array]] = {
    "fine-tuning": whole_network,
    **dict.fromkeys(PAIR_LOSSES, pairs_then_head),
    "head alone": head_alone,
    "head on hashed terms": hashed_terms,
}
"""name -> logits of the test set"""


def by_head(problem: Problem, labeled: jax.Array, tested: jax.Array, rows: np.ndarray) -> jax.Array:
    """Logits of a head trained on these features."""
    weights = jnp.ones(len(rows))
    head = train_head(labeled, jnp.asarray(problem.label[rows]), weights, fit=HEAD, classes=problem.classes)
    return logits_of(head, tested, HEAD.scale)


def padded(config: Config, problem: Problem, rows: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Tokens and labels of the rows, as many for all numbers of shots, and how many are real."""
    places = np.arange(max(config.shots) * problem.classes) % len(rows)
    return problem.tokens[rows[places]], jnp.asarray(problem.label[rows[places]]), jnp.array(len(rows))


@functools.partial(jax.jit, static_argnames=("name", "size", "steps"))
def paired(network, standard, tokens, labels, count, key, rate, name: str, size: Size, steps: int) -> Any:
    """The transformer after training on all pairs of texts in batches that are drawn from the first `count` rows."""

    def losses(network, batch):
        vectors = unit(standard(features(size, network, batch["tokens"])))
        masks = positive_mask(batch["label"]), negative_mask(batch["label"])
        return PAIR_LOSSES[name](vectors @ vectors.T, *masks, reduction="anchors")

    given = weighted_gradient(losses)

    def gradient(network, key):
        rows = jax.random.randint(key, (size.batch_size,), 0, count)
        batch = {"tokens": tokens[rows], "label": labels[rows]}
        return given(network, batch, jnp.full(size.batch_size, 1 / size.batch_size))[1]

    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    return minimize(optimizer, gradient, network, jax.random.split(key, steps))


def unit(vectors: jax.Array) -> jax.Array:
    """Rows of length 1."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def by_number(records) -> dict[str, float]:
    """The numbers of the table."""
    return {f"accuracy, {r['step']} labels": r["metrics"]["accuracy"] for r in records}
