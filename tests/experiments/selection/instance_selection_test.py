"""The choices of the experiment on planted digits."""

import numpy as np
import pytest

from experiments.selection import instance_selection as experiment

CONFIG = experiment.Config(seeds=(0,), test=60, kept=0.1, steps=2)


@pytest.fixture
def planted(monkeypatch):
    """Ten clusters of pixels, one for each label."""
    rng = np.random.default_rng(0)
    labels = np.arange(260) % 10
    images = np.clip(4 * np.eye(10)[labels].repeat(7, 1)[:, :64] + rng.normal(size=(260, 64)), 0, None)
    parts = {"train": slice(200), "test": slice(200, 260)}
    made = {name: {"image": images[part], "label": labels[part]} for name, part in parts.items()}
    monkeypatch.setattr(experiment, "arrays", lambda name, part: made[part])


def test_arms_choose_as_many_different_rows(planted, tmp_path):
    train, test = experiment.split(CONFIG, 0)
    assert len(train.label) == 200 and len(test.label) == 60
    chosen = {name: keep(CONFIG, train, 20, 0) for name, keep in experiment.ARMS.items()}
    assert all(len(set(rows.tolist())) == 20 for rows in chosen.values())
    assert all(len(set(train.label[rows])) == 10 for name, rows in chosen.items() if name != "least margin")
    nearest = experiment.one_run(CONFIG, experiment.at_random, 0)
    assert nearest["nearest_neighbor"] > 0.9 and nearest["classes"] == 10
