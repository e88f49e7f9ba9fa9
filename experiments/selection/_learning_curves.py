"""Points of a learning curve, and the numbers that a table says of it."""

import numpy as np


def accuracies(predicted: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """The share of rows that are right, and its mean over the classes that the test set has."""
    right = predicted == label
    counts = np.bincount(label)
    recalls = np.bincount(label, weights=right)[counts > 0] / counts[counts > 0]
    return {"accuracy": float(np.mean(right)), "recall": float(np.mean(recalls))}


def area_under(labels: list[int], values: list[float]) -> float:
    """Mean height of a learning curve: the area under it by the number of labels, divided by its width."""
    return float(np.trapezoid(values, labels) / (labels[-1] - labels[0]))


def by_area(records) -> dict[str, float]:
    """The numbers of the table: heights of the curves, over all rounds and over the first four, and their ends."""
    labels = [r["step"] for r in records]
    of = {name: [r["metrics"][name] for r in records] for name in ("accuracy", "recall")}
    return {
        "area": area_under(labels, of["accuracy"]),
        "last_accuracy": of["accuracy"][-1],
        "early_area": area_under(labels[:5], of["accuracy"][:5]),
        "recall_area": area_under(labels, of["recall"]),
    }
