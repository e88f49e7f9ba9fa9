import numpy as np
import pytest

from experiments.selection import subsets_of_a_pool
from experiments.selection.subsets_of_a_pool import ARMS, Config


def clusters():
    """Ten tight groups of images, of which the last has a tenth of the images of the others."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(10, 20)).astype(np.float32)
    labels = rng.choice(10, 400, p=[1 / 9.1] * 9 + [0.1 / 9.1]).astype(np.int32)
    images = centers[labels] + 0.1 * rng.normal(size=(400, 20)).astype(np.float32)
    part = {"image": images, "label": labels}
    return {"train": part, "test": part}


@pytest.mark.parametrize("name", [name for name in ARMS if name != "random"])
def test_a_row_of_every_group_is_chosen(name):
    config = Config(rows=400, size=12, parts=4, hidden=16, steps=60)
    splits = clusters()
    found = subsets_of_a_pool.one_run(config, name, splits, 0)
    random = subsets_of_a_pool.one_run(config, "random", splits, 0)
    assert found["nearest_label_information"] == pytest.approx(1)
    assert found["mean_distance"] < 0.7 < random["mean_distance"]
    assert found["test_accuracy"] > 0.98 > random["test_accuracy"]
