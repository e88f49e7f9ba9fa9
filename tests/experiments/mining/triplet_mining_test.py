"""The splits of the experiment."""

import numpy as np
import pytest

from experiments.mining._emoji import class_rows, rows_of_one_class


@pytest.mark.parametrize("validate", [False, True])
def test_rows_hold_one_class_and_test_classes_are_new(validate):
    splits = rows_of_one_class("digits", validate)
    assert not set(splits["train"]["label"]) & set(splits["test"]["label"])
    assert {rows["image"].shape[1:] for rows in splits.values()} == {(4, 64)}


def test_class_rows_are_images_of_their_class():
    from experiments.datasets import arrays

    data, rows = arrays("digits", "test"), class_rows("digits", "test", 5, 10)
    classes = {image.tobytes(): label for image, label in zip(data["image"].astype(np.float32), data["label"])}
    assert all(classes[image.tobytes()] == label for row, label in zip(*rows.values()) for image in row)
