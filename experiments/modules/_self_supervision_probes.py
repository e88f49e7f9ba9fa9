"""Images of the self-supervision experiment, and what a representation of them is worth."""

import numpy as np

from experiments.datasets import arrays

LABELS_PER_CLASS, NUM_DRAWS = 10, 10


def probes(rows, test_rows, train, test, seed: int) -> dict[str, float]:
    """Linear classifiers of all labels and of few, and the five nearest neighbours by cosine."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import StandardScaler, normalize

    rows, test_rows = np.asarray(rows, np.float64), np.asarray(test_rows, np.float64)
    scaler = StandardScaler().fit(rows)
    scaled, test_scaled = scaler.transform(rows), scaler.transform(test_rows)
    probe = LogisticRegression(C=0.1, tol=1e-3, max_iter=1000)
    few = [
        probe.fit(scaled[some], train["label"][some]).score(test_scaled, test["label"])
        for some in (few_of_each(train["label"], seed * NUM_DRAWS + draw) for draw in range(NUM_DRAWS))
    ]
    neighbours = KNeighborsClassifier(5).fit(normalize(rows), train["label"])
    return {
        "linear_probe": probe.fit(scaled, train["label"]).score(test_scaled, test["label"]),
        "probe_of_100_labels": float(np.mean(few)),
        "nearest_neighbours": neighbours.score(normalize(test_rows), test["label"]),
    }


def few_of_each(labels: np.ndarray, seed: int) -> np.ndarray:
    """Indices of `LABELS_PER_CLASS` random rows of each class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.concatenate([order[labels[order] == label][:LABELS_PER_CLASS] for label in np.unique(labels)])


def images(dataset: str, number: int, validate: bool, num_test: int = 2000):
    """Training and test images `[N, side, side]` with pixels in [0, 1], and labels."""
    splits = []
    for split, most in (("train", number), ("test", num_test)):
        columns = arrays(dataset, split)
        rows = np.random.default_rng(0).permutation(len(columns["label"]))[:most]
        pixels = columns["image"][rows, ..., 0].astype(np.float32)
        if dataset == "digits":
            pixels = pixels / 16
        else:
            pixels = pixels.reshape(len(rows), 14, 2, 14, 2).mean((2, 4)) / 255
        splits.append({"image": pixels, "label": columns["label"][rows]})
    if validate:
        cut = len(splits[0]["label"]) * 4 // 5
        splits = [{k: v[rows] for k, v in splits[0].items()} for rows in (slice(cut), slice(cut, None))]
    return splits
