"""Distillation from a teacher of other newsgroups: rows that it is sure of and the student is not (LLKD).

Claim: a student that trains only on the rows where the teacher is confident and the student uncertain, by thresholds
  per pseudo-label and step, is more accurate than one that trains on all rows, and than one on as many rows chosen at
  random, by the teacher's confidence alone or by the student's entropy alone; and it needs fewer rows to get there.
Data: posts of four domains (comp, rec, sci, talk) as hashed words. The teacher, a logistic regression, has seen two
  newsgroups of each domain, drawn by the seed, and labels the 5000 training posts of the others, 40 % of them wrongly;
  the student is tested on the 3300 later posts of these, with their right labels.
  `python -m experiments.datasets fetch newsgroups`.
Command: `python -m experiments distill_texts`
Minutes: 2 on one CPU core
Expected: mean ± standard error over 5 seeds; accuracy after 600 batches of 64 and after 8000 rows that counted, rows
  until it is 0.65 (seeds that never get there are left out), and the share of right labels among the rows that count:

  | arm              | test accuracy | at 8000 rows  | rows to 0.65           | right         |
  |------------------|---------------|---------------|------------------------|---------------|
  | all rows         | 0.677 ± 0.021 | 0.492 ± 0.039 | 17280 ± 1109 (4 of 5)  | 0.588 ± 0.024 |
  | LLKD             | 0.649 ± 0.032 | 0.638 ± 0.043 | 5049 ± 523 (4 of 5)    | 0.571 ± 0.028 |
  | LLKD, unweighted | 0.641 ± 0.034 | 0.618 ± 0.049 | 5935 ± 1018 (4 of 5)   | 0.573 ± 0.026 |
  | confidence only  | 0.658 ± 0.014 | 0.658 ± 0.012 | 4080 ± 645             | 0.828 ± 0.035 |
  | entropy only     | 0.616 ± 0.021 | 0.608 ± 0.029 | 3060 (1 of 5)          | 0.418 ± 0.010 |
  | random           | 0.664 ± 0.017 | 0.645 ± 0.018 | 6885 ± 642 (4 of 5)    | 0.590 ± 0.026 |
  | oracle           | 0.840 ± 0.011 | 0.818 ± 0.018 | 4145 ± 562             | 1.000 ± 0.000 |

  LLKD keeps 0.352 ± 0.015 of the rows, the arms that are told how many 0.266. Paired by seed, the last accuracy of all
  rows is above LLKD's by 0.027 ± 0.011 and above that of random rows by 0.013 ± 0.006; right labels would raise it by
  0.163 ± 0.031.
  At equal rows every arm with fewer of them is far ahead of all rows, random ones too: what counts are the updates, not
  the choice. LLKD is level with random rows there. Its two halves work against each other: the teacher's confidence
  raises the share of right labels to 0.83, but a student stays uncertain of rows whose label is wrong, so that of the
  rows chosen by entropy 0.42 are right, and of LLKD's as many as of all. It peaks early and falls as the rows that are
  left are the wrong ones. The confidence of a teacher of another domain alone is no gain in the end, either: it keeps
  the posts that look like what the teacher knows, perhaps too few kinds.
Verdict: not reproduced: at equal rows LLKD is level with random rows, and at the end below all rows; the uncertainty of
  the student picks the teacher's errors.
Tuning: Adam's rate {3e-4, 1e-3} for each arm by the last accuracy, with --validate and seed 100; 1e-4 was worse for all
  rows and for LLKD. Decay and weighting were not tuned.
Reference: Li et al., Learning with less: knowledge distillation from large language models via unlabeled data, NAACL
  Findings 2025 (arXiv 2411.08028). The thresholds are those of `keep_by_teacher_student`, not the paper's own.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.datasets import arrays
from experiments.engine import gradient_arm, init_mlp, mlp, run
from minibatch_jax import normalize, value_and_grad, weight_transformation
from minibatch_jax.selection import keep_by_teacher_student, keep_random, keep_uncertain, teacher_labels, topk_mask

DOMAINS = (1, 3, 4, 6)
"""comp, rec, sci, talk"""
GOAL = 0.65
"""test accuracy, to which rows are counted"""
WORDS = 2048
"""features, by hashing"""
LEARNING_RATES = {
    **dict.fromkeys(("all rows", "LLKD", "LLKD, unweighted", "entropy only", "random"), 3e-4),
    **dict.fromkeys(("confidence only", "oracle"), 1e-3),
}
"""the better of 3e-4 and 1e-3 for each arm, with --validate and seed 100"""


@dataclass(frozen=True)
class Config:
    """Hyper-parameters; the arms differ in the rows of a batch that count, and take as many steps."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    out: str = "runs/distill_texts"
    arms: tuple[str, ...] = ()
    """names of the arms to run; empty: all"""
    steps: int = 600
    batch_size: int = 64
    keep: int = 17
    """rows of a batch that count in the arms that are told how many: as many as LLKD kept on seed 100"""
    evaluate_every: int = 60
    checkpoint_every: int = 600
    hidden: int = 64
    at_rows: int = 8000
    """rows consumed at which the accuracies are compared"""
    learning_rate: float | None = None
    """of Adam, for all arms; None for the tuned one of each"""
    validate: bool = False
    """test on a fifth of the posts that are labeled by the teacher: for tuning"""


def main(config: Config):
    """Train all arms and report."""
    selections = {
        "all rows": (),
        "LLKD": (keep_by_teacher_student(len(DOMAINS)),),
        "LLKD, unweighted": (keep_by_teacher_student(len(DOMAINS), weighting="own"),),
        "confidence only": (keep_confident(config.keep),),
        "entropy only": (keep_uncertain(config.keep, key=1, score="entropy"),),
        "random": (keep_random(config.keep, key=1),),
        "oracle": (keep_right(),),
    }

    def losses(params, batch):
        logits = mlp(params, batch["features"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["pseudo_label"]), {"logits": logits}

    def arm(name):
        selection = optax.chain(*selections[name], normalize())
        optimizer = optax.adam(config.learning_rate or LEARNING_RATES[name])
        selected = value_and_grad(losses, selection, has_aux=True)

        def start(key):
            params = init_mlp(key, (WORDS, config.hidden, len(DOMAINS)))
            return {"params": params, "selection_state": selection.init(jnp.zeros(config.batch_size))}

        def gradient(state, batch):
            right = batch["pseudo_label"] == batch["label"]
            signals = {"teacher_confidences": batch["confidence"], "pseudo_labels": batch["pseudo_label"]}
            (_, aux), grads, after = selected(state.params, batch, state.selection_state, right=right, **signals)
            kept = aux.weights > 0
            metrics = {"kept": jnp.mean(kept), "right_share_of_kept": (jnp.sum(kept & right), jnp.sum(kept))}
            return grads, {"selection_state": after}, metrics

        return gradient_arm(optimizer, start, gradient)

    @jax.jit
    def evaluate(state, data):
        correct = jnp.argmax(mlp(state.params, data["test"]["features"]), axis=1) == data["test"]["label"]
        return {"test_accuracy": jnp.mean(correct)}

    arms = {name: arm(name) for name in selections}
    data = functools.partial(labeled_by_teacher, validate=config.validate)
    better: Any = {"test_accuracy": "higher", "accuracy_at_equal_rows": "higher"}
    summary = functools.partial(summarize, config)
    return run(config, arms, data, evaluate, steps_per_call=20, summary=summary, baseline="all rows", better=better)


def summarize(config: Config, records: list[dict[str, Any]]) -> dict[str, float]:
    """Last and best accuracy, rows consumed, those to a goal (NaN: never), the accuracy after some, shares over all."""
    kept, accuracy, right = (
        np.array([r["metrics"][name] for r in records]) for name in ("kept", "test_accuracy", "right_share_of_kept")
    )
    rows = np.cumsum(kept) * config.evaluate_every * config.batch_size
    return {
        "test_accuracy": accuracy[-1],
        "best_accuracy": accuracy.max(),
        "rows": rows[-1],
        "rows_to_goal": rows[np.argmax(accuracy >= GOAL)] if np.any(accuracy >= GOAL) else math.nan,
        "accuracy_at_equal_rows": float(np.interp(config.at_rows, rows, accuracy)),
        "kept": kept.mean(),
        "right_share_of_kept": float(np.sum(right * kept) / np.sum(kept)),
    }


def labeled_by_teacher(seed: int, validate: bool) -> dict[str, dict[str, np.ndarray]]:
    """Posts of the newsgroups that the teacher has not seen: to train on, with its labels, and to test on."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    train, test = hashed_posts("train"), hashed_posts("test")
    groups = [np.unique(train["group"][train["label"] == domain]) for domain in range(len(DOMAINS))]
    seen = np.concatenate([rng.permutation(names)[:2] for names in groups])
    teacher = LogisticRegression(max_iter=300)
    known = np.isin(train["group"], seen)
    teacher.fit(train["features"][known], train["label"][known])
    rows = rng.permutation(np.flatnonzero(~known))
    new = {column: values[rows] for column, values in train.items()}
    labels, sure = teacher_labels(jnp.asarray(teacher.predict_proba(new["features"]), jnp.float32))
    new |= {"pseudo_label": np.asarray(labels), "confidence": np.asarray(sure)}
    if validate:
        cut = len(rows) * 4 // 5
        return {"train": {k: v[:cut] for k, v in new.items()}, "test": {k: v[cut:] for k, v in new.items()}}
    later = ~np.isin(test["group"], seen)
    return {"train": new, "test": {column: values[later] for column, values in test.items()}}


@functools.cache
def hashed_posts(split: str) -> dict[str, np.ndarray]:
    """Posts of the four domains: words hashed to features of length 1, `label` (the domain) and `group`."""
    from sklearn.feature_extraction.text import HashingVectorizer

    posts = arrays("newsgroups", split)
    rows = np.isin(posts["domain"], DOMAINS)
    words = HashingVectorizer(n_features=WORDS, stop_words="english", alternate_sign=False)
    features: Any = words.transform([text.decode() for text in posts["text"][rows]])
    return {
        "features": features.toarray().astype(np.float32),
        "label": np.searchsorted(DOMAINS, posts["domain"][rows]).astype(np.int32),
        "group": posts["label"][rows],
    }


def keep_confident(k: int) -> optax.GradientTransformationExtraArgs:
    """Keep the k rows that the teacher is surest of. Signal: `teacher_confidences` [B]."""

    def update(weights, state, params=None, *, teacher_confidences, **extra_args):
        return jnp.where(topk_mask(teacher_confidences, k, where=weights != 0), weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update)


def keep_right() -> optax.GradientTransformationExtraArgs:
    """Keep the rows that the teacher labels rightly: what no selection can know. Signal: `right` [B]."""

    def update(weights, state, params=None, *, right, **extra_args):
        return jnp.where(right, weights, 0), state

    return weight_transformation(lambda weights: optax.EmptyState(), update, ["right"])
