"""Query strategies outside JAX, the peers of speed case `strategies`: small-text and scikit-activeml, if installed.

Each function takes a pool of NumPy arrays and k, and returns a call that gives what the peer chooses. Imports and
wrapped classifiers are made outside of the clock.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Pool(NamedTuple):
    """A pool of N rows and L labeled ones, as arrays of NumPy or JAX.

    Attributes:
      logits: `[N, C]`.
      features: `[N, D]`, of length 1.
      committee: `[N, M, C]`, logits of members.
      known_logits: `[L, C]`.
      known_features: `[L, D]`.
      classes: `[L]`, labels.
      several: `[L, C]` bool, classes where an example may have several.
    """

    logits: Any
    features: Any
    committee: Any
    known_logits: Any
    known_features: Any
    classes: Any
    several: Any


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


class _Predicts:
    """A classifier of small-text whose predictions and embeddings are given; the data set is the rows' numbers."""

    def __init__(self, probabilities: np.ndarray, embeddings: np.ndarray):
        self.probabilities, self.embeddings = probabilities, embeddings

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        return self.probabilities[rows]

    def embed(self, rows: np.ndarray, return_proba: bool = False, **_: Any) -> Any:
        return (self.embeddings[rows], self.probabilities[rows]) if return_proba else self.embeddings[rows]


def _small_text(strategy: Any, pool: Pool, k: int, **options: Any) -> Callable[[], Any]:
    features = np.concatenate([pool.features, pool.known_features])
    model = _Predicts(softmax(np.concatenate([pool.logits, pool.known_logits])), features)
    rows, size = np.arange(len(features)), len(pool.features)
    return lambda: strategy.query(model, rows, rows[:size], rows[size:], pool.classes, n=k, **options)


def _scikit(strategy: Any, pool: Pool, k: int, **options: Any) -> Callable[[], Any]:
    x = np.concatenate([pool.features, pool.known_features])
    y = np.concatenate([np.full(len(pool.features), np.nan), pool.classes])

    def call():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return strategy().query(x, y, batch_size=k, **options)

    return call


def uncertainty(name: str) -> Callable[[Pool, int], Callable[[], Any]]:
    def make(pool: Pool, k: int) -> Callable[[], Any]:
        from small_text.query_strategies import strategies

        return _small_text(getattr(strategies, name)(), pool, k)

    return make


def bald(pool: Pool, k: int) -> Callable[[], Any]:
    from small_text.query_strategies.bayesian import _bald  # pyright: ignore[reportMissingImports]

    probabilities = softmax(pool.committee)
    return lambda: np.argpartition(-_bald(probabilities), k)[:k]


def vote_entropy(pool: Pool, k: int) -> Callable[[], Any]:
    from skactiveml.pool import vote_entropy  # pyright: ignore[reportMissingImports]

    votes, classes = pool.committee.argmax(2), np.arange(pool.committee.shape[2])
    return lambda: np.argpartition(-vote_entropy(votes, classes), k)[:k]


def batch_bald(pool: Pool, k: int) -> Callable[[], Any]:
    from skactiveml.pool import batch_bald  # pyright: ignore[reportMissingImports]

    probabilities = softmax(pool.committee).transpose(1, 0, 2)
    return lambda: batch_bald(probabilities.copy(), k, n_MC_samples=512, random_state=0)


def contrast(pool: Pool, k: int) -> Callable[[], Any]:
    from small_text.query_strategies.strategies import (
        ContrastiveActiveLearning,  # pyright: ignore[reportMissingImports]
    )

    return _small_text(ContrastiveActiveLearning(pbar=None), pool, k)  # pyright: ignore[reportArgumentType]


def core_set(pool: Pool, k: int) -> Callable[[], Any]:
    from small_text.query_strategies.coresets import greedy_coreset  # pyright: ignore[reportMissingImports]

    x, rows = np.concatenate([pool.features, pool.known_features]), np.arange(len(pool.features))
    known = np.arange(len(rows), len(x))
    return lambda: greedy_coreset(x, rows, known, k, distance_metric="euclidean", normalized=True)


def lightweight(pool: Pool, k: int) -> Callable[[], Any]:
    from small_text.query_strategies.coresets import LightweightCoreset  # pyright: ignore[reportMissingImports]

    return _small_text(LightweightCoreset(), pool, k, pbar=None)


def k_means(pool: Pool, k: int) -> Callable[[], Any]:
    from small_text.query_strategies.strategies import EmbeddingKMeans  # pyright: ignore[reportMissingImports]

    return _small_text(EmbeddingKMeans(), pool, k, pbar=None)


def badge(pool: Pool, k: int) -> Callable[[], Any]:
    from skactiveml.classifier import SklearnClassifier  # pyright: ignore[reportMissingImports]
    from skactiveml.pool import Badge  # pyright: ignore[reportMissingImports]
    from sklearn.linear_model import LogisticRegression

    classes = np.arange(pool.logits.shape[1])
    model = SklearnClassifier(LogisticRegression(), classes=classes).fit(pool.known_features, pool.classes)
    return _scikit(lambda: Badge(random_state=0), pool, k, clf=model, fit_clf=False)


def prob_cover(pool: Pool, k: int) -> Callable[[], Any]:
    from skactiveml.pool import ProbCover  # pyright: ignore[reportMissingImports]

    return _scikit(lambda: ProbCover(n_classes=20, deltas=[1.0], random_state=0), pool, k)


def typi_clust(pool: Pool, k: int) -> Callable[[], Any]:
    from skactiveml.pool import TypiClust  # pyright: ignore[reportMissingImports]

    return _scikit(lambda: TypiClust(k=20, random_state=0), pool, k)


def discriminative(pool: Pool, k: int) -> Callable[[], Any]:
    from skactiveml.classifier import SklearnClassifier  # pyright: ignore[reportMissingImports]
    from skactiveml.pool import DiscriminativeAL  # pyright: ignore[reportMissingImports]
    from sklearn.linear_model import LogisticRegression

    model = SklearnClassifier(LogisticRegression(), classes=[0, 1])
    return _scikit(lambda: DiscriminativeAL(greedy_selection=True, random_state=0), pool, k, discriminator=model)


def cvirs(pool: Pool, k: int) -> Callable[[], Any]:
    from scipy.sparse import csr_matrix
    from small_text.query_strategies.multi_label import (  # pyright: ignore[reportMissingImports]
        CategoryVectorInconsistencyAndRanking,
    )

    model = _Predicts(1 / (1 + np.exp(-pool.logits)), pool.features)
    rows, known = np.arange(len(pool.features)), csr_matrix(pool.several.astype(int))
    strategy = CategoryVectorInconsistencyAndRanking(pbar=None)  # pyright: ignore[reportArgumentType]
    return lambda: strategy.query(model, rows, rows, rows[:0], known, n=k)


def kappa(pool: Pool, k: int) -> Callable[[], Any]:
    from small_text.stopping_criteria.kappa import KappaAverage  # pyright: ignore[reportMissingImports]

    predictions = pool.logits.argmax(1), pool.committee[:, 0].argmax(1)

    def call():
        rule = KappaAverage(pool.logits.shape[1])
        rule.stop(predictions=predictions[0])
        return rule.stop(predictions=predictions[1])

    return call
