"""Pools of texts for active learning: what a linear head sees of them, and their labels.

The terms of a text, words and pairs of words, are hashed into columns; tf-idf counts of these are projected on their
leading singular vectors. Both are made from the pool alone, and need no labels.
"""

import functools
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.datasets import arrays

Task = Literal["newsgroups", "reuters_52", "reuters_8", "sentiment"]
TASKS: tuple[Task, ...] = ("newsgroups", "reuters_52", "sentiment")
ROWS, TEST = 1500, 1000
COLUMNS, DIMENSIONS = 2**15, 128


class Texts(NamedTuple):
    """Texts of a pool `[N]` and of a test set, and their classes, 0 to `classes` - 1."""

    pool: list[bytes]
    label: np.ndarray
    test: list[bytes]
    test_label: np.ndarray
    classes: int


class LabelPool(NamedTuple):
    """Features `[N, D]` of unit length and classes `[N]` of a pool, and those of a test set."""

    features: np.ndarray
    label: np.ndarray
    test_features: np.ndarray
    test_label: np.ndarray
    classes: int


@functools.cache
def draw_texts(task: Task, validate: bool, seed: int) -> Texts:
    """Rows of the training split, and of the test split; both of the training split if `validate`.

    The class of a sentence in `sentiment` is the sign of its mean rating: positive or not.
    """
    rng = np.random.default_rng(seed)
    train, test = arrays(task, "train"), arrays(task, "test")
    order = rng.permutation(len(train["label"]))
    pool, held = order[:ROWS], order[ROWS : ROWS + TEST]
    source = train
    if not validate:
        source, held = test, rng.permutation(len(test["label"]))[:TEST]
    classes = 1 + int(max(train["label"].max(), test["label"].max()))
    return Texts(
        list(train["text"][pool]), train["label"][pool], list(source["text"][held]), source["label"][held], classes
    )


@functools.lru_cache(maxsize=2)
def draw_pool(task: Task, validate: bool, seed: int) -> LabelPool:
    """The features of `draw_texts`."""
    texts = draw_texts(task, validate, seed)
    features, test_features = hashed_features(texts.pool, texts.test)
    return LabelPool(features, texts.label, test_features, texts.test_label, texts.classes)


def hashed_features(texts: list[bytes], others: list[bytes]) -> list[np.ndarray]:
    """Projections of hashed terms, fitted to the first list: `[N, D]` float32 for each, rows of length 1."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    options: Any = {"norm": None, "alternate_sign": False}
    terms = HashingVectorizer(n_features=COLUMNS, ngram_range=(1, 2), **options)
    counts = [terms.transform([text.decode(errors="replace") for text in part]) for part in (texts, others)]
    scaling = TfidfTransformer(sublinear_tf=True).fit(counts[0])
    scaled = [scaling.transform(part) for part in counts]
    svd = TruncatedSVD(min(DIMENSIONS, len(texts) - 1), n_iter=4, random_state=0).fit(scaled[0])
    vectors = [svd.transform(part) for part in scaled]
    return [(v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-6)).astype(np.float32) for v in vectors]
