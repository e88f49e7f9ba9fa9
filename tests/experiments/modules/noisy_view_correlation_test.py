"""The two views of a digit, and that each method finds the class that they share."""

import numpy as np
import pytest

from experiments.engine import folders
from experiments.modules import _noisy_views
from experiments.modules import noisy_view_correlation as experiment


def digits(name, split):
    """Bars of ten lengths in the middle of the image, brighter in the test set."""
    label = np.arange(200) % 10
    image = np.zeros((200, 28, 28, 1), np.uint8)
    for row, length in zip(image, label, strict=True):
        row[12:16, 4 : 8 + 2 * length] = 200 if split == "train" else 201
    return {"image": image, "label": label.astype(np.int32)}


def test_the_first_view_turns_and_the_second_is_another_digit_of_the_class_in_noise(monkeypatch):
    data = digits("mnist", "train")
    data["image"][0] = 255
    views = _noisy_views.both_views(data, np.arange(200), np.random.default_rng(0))
    assert views.first.shape == views.second.shape == (200, 196)
    white = np.flatnonzero(np.min(views.second, axis=1) == 1)
    assert len(white) == 1 and white[0] != 0 and data["label"][white[0]] == 0
    np.testing.assert_allclose(views.first[1:].mean(), data["image"][1:].mean() / 255, rtol=0.1)
    dark = views.second[:, :14]  # the noise alone
    assert np.median(dark) == pytest.approx(0.5, abs=0.05) and dark.max() <= 1
    upright = _noisy_views.small(data["image"][1:, ..., 0] / 255)
    assert 0.02 < np.abs(views.first[1:] - upright).mean() < 0.3


def test_digits_to_tune_on_are_not_trained_on(monkeypatch):
    monkeypatch.setattr(_noisy_views, "arrays", digits)
    _noisy_views.noisy_views.cache_clear()
    train, test = _noisy_views.noisy_views(100, 50, True, 0)
    assert len(train.label) == 100 and len(test.label) == 50
    np.testing.assert_allclose(train.first.mean(0), 0, atol=1e-5)
    _noisy_views.noisy_views.cache_clear()


@pytest.mark.slow
def test_kernels_and_networks_find_the_class_that_two_views_share(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(_noisy_views, "arrays", digits)
    monkeypatch.setattr(experiment, "FEATURES", (100,))
    _noisy_views.noisy_views.cache_clear()
    arms = "linear CCA", "kernel CCA, 150 rows", "kernel CCA, 100 random features", "DCCA"
    options = {"train_rows": 200, "test_rows": 100, "kernel_rows": 150, "batch_size": 100, "hidden": 16}
    config = experiment.Config(seeds=(0,), out=str(tmp_path), arms=arms, dimensions=3, epochs=20, **options)
    found = {r["arm"]: r["metrics"] for r in experiment.main(config)}
    _noisy_views.noisy_views.cache_clear()
    assert len(found) == len(arms)
    assert all(m["probe_accuracy"] > 0.3 and m["correlation_test"] > 0.5 for m in found.values())
