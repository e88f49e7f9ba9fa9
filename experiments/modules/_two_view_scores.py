"""Data and metrics of the two-view experiment."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.datasets import arrays
from minibatch_jax.modules import linear_cca

NUM_CLASSES = 10


class Digits(NamedTuple):
    """Two standardized views, `[N, d1]` and `[N, d2]`, and labels `[N]` of the same digits."""

    first: np.ndarray
    second: np.ndarray
    label: np.ndarray


class Codes(NamedTuple):
    """What a method makes of both views, on the training and the test digits; all `[., dimensions]`."""

    first: np.ndarray
    second: np.ndarray
    first_test: np.ndarray
    second_test: np.ndarray


def two_views(names: tuple[str, str], validate: bool) -> tuple[Digits, Digits]:
    """Training and test digits, standardized by the training digits."""
    splits = [arrays("digit_views", split) for split in ("train", "test")]
    if validate:
        held_out = np.arange(len(splits[0]["label"])) % 5 == 4
        splits = [{k: v[rows] for k, v in splits[0].items()} for rows in (~held_out, held_out)]
    columns = []
    for name in names:
        mean, deviation = splits[0][name].mean(0), splits[0][name].std(0)
        columns.append([(split[name] - mean) / np.where(deviation > 0, deviation, 1) for split in splits])
    train, test = (Digits(columns[0][i], columns[1][i], splits[i]["label"]) for i in (0, 1))
    return train, test


def scores(
    codes: Codes, train: Digits, test: Digits, seed: int, ridge: float, *, canonical: bool = False
) -> dict[str, float]:
    """Correlation that a linear CCA of the training codes captures on the test codes, and what the first view is worth.

    Clustering and probe see the canonical projections if the method is a CCA, else the codes.
    """
    mean = codes.first.mean(0), codes.second.mean(0)
    found = linear_cca(jnp.asarray(codes.first), jnp.asarray(codes.second), ridge=ridge)
    first, second = np.asarray(found.first), np.asarray(found.second)
    projected, other = (codes.first_test - mean[0]) @ first, (codes.second_test - mean[1]) @ second
    rows = ((codes.first - mean[0]) @ first, projected) if canonical else (codes.first, codes.first_test)
    return {
        "correlation_train": float(jnp.sum(found.correlations)),
        "correlation_test": paired_correlation(projected, other),
        **downstream(*rows, train, test, seed),
    }


def paired_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Sum over columns of Pearson's correlation of column i of both views."""
    first, second = first - first.mean(0), second - second.mean(0)
    norms = np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0)
    return float(np.sum(np.sum(first * second, axis=0) / np.maximum(norms, 1e-12)))


def downstream(rows: np.ndarray, test_rows: np.ndarray, train: Digits, test: Digits, seed: int) -> dict[str, float]:
    """Logistic regression and k-means of the training rows, measured on the test rows."""
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import normalized_mutual_info_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(rows, train.label)
    clustering = KMeans(NUM_CLASSES, n_init=10, random_state=seed).fit(rows)  # pyright: ignore[reportArgumentType]
    clusters = np.asarray(clustering.predict(test_rows))
    return {
        "probe_accuracy": float(probe.score(test_rows, test.label)),
        "cluster_accuracy": clustering_accuracy(clusters, test.label),
        "cluster_information": float(normalized_mutual_info_score(test.label, clusters)),
    }


def clustering_accuracy(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Share of the rows that are right when each cluster is given the class that suits best, each class once."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    np.add.at(counts, (clusters, labels), 1)
    return float(counts[linear_sum_assignment(-counts)].sum() / len(labels))
