"""Small classifiers of Fashion-MNIST of eight families, and which test images each of them gets right."""

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np

from experiments.shared.fashion import fashion

POOL = 2
SIZES = 60, 150, 400, 1000, 2500


class Zoo(NamedTuple):
    """What M classifiers make of all test images, of which `labels` [N] are the classes.

    `right` [M, N] says which ones they get right, and `families` [M] to which of `FAMILIES` a classifier belongs.
    """

    right: np.ndarray
    families: np.ndarray
    labels: np.ndarray


def families() -> dict[str, list[Any]]:
    """Family -> classifiers of scikit-learn, not trained, each for all of `SIZES`."""
    from sklearn import discriminant_analysis, ensemble, linear_model, naive_bayes, neighbors, neural_network, tree

    return {
        "softmax regression": [linear_model.LogisticRegression(C=c, max_iter=60) for c in (1e-4, 1e-2)],
        "perceptron, 1 layer": [
            neural_network.MLPClassifier((w,), max_iter=e, random_state=w) for w, e in ((8, 20), (32, 10), (64, 30))
        ],
        "perceptron, 2 layers": [
            neural_network.MLPClassifier((w, w), max_iter=e, random_state=w) for w, e in ((16, 15), (48, 25))
        ],
        "neighbors": [neighbors.KNeighborsClassifier(k) for k in (1, 5, 15)],
        "centroids": [neighbors.NearestCentroid(), neighbors.NearestCentroid(metric="manhattan")],
        "tree": [tree.DecisionTreeClassifier(max_depth=d, random_state=0) for d in (4, 8, None)],
        "forest": [ensemble.RandomForestClassifier(n, max_depth=6, random_state=0) for n in (5, 25)],
        "gaussian": [
            naive_bayes.GaussianNB(var_smoothing=0.1),
            discriminant_analysis.LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1),
        ],
    }


FAMILIES = 8


@functools.cache
def model_zoo(validate: bool = False, most: int = SIZES[-1]) -> Zoo:
    """Train all classifiers on the first rows of a shuffled training set, and ask them for all test images."""
    splits = fashion(POOL, validate)
    test = splits["test"]
    right, numbers = [], []
    for number, (_, classifiers) in enumerate(families().items()):
        for i, classifier in enumerate(classifiers):
            for size in (s for s in SIZES if s <= most):
                rows = np.random.default_rng([number, i, size]).permutation(len(splits["train"]["label"]))[:size]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of training that stops early, on purpose
                    model = classifier.fit(splits["train"]["image"][rows], splits["train"]["label"][rows])
                right.append(model.predict(test["image"]) == test["label"])
                numbers.append(number)
    return Zoo(np.array(right), np.array(numbers), test["label"])
