import numpy as np
import pytest

from experiments.mining import wrong_label_search
from experiments.mining.wrong_label_search import METHODS, Config


@pytest.mark.parametrize("name", METHODS)
def test_wrong_labels_of_groups_that_lie_apart_are_found(name):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 600).astype(np.int32)
    images = (3 * np.eye(10, 12)[labels] + 0.1 * rng.normal(size=(600, 12))).astype(np.float32)
    config = Config(
        rows=600, steps=200, batch_size=32, hidden=32, dimensions=8, noise=0.1, neighbors=5, learning_rate=1e-2
    )
    found = wrong_label_search.one_run(config, name, images, labels, 0)
    if name == "random":
        assert found["wrong_among_doubted"] < 0.3
    else:
        assert found["wrong_among_doubted"] > 0.7
