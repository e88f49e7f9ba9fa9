"""Pairings and distances of the experiment: what is kept, and that a wrong class is seen."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.coupling import _image_quality as quality
from experiments.coupling import conditional_images as experiment


def test_pairs_within_classes_keep_the_noise_of_each_class_and_vectors_do_with_a_small_fraction():
    rng = np.random.default_rng(0)
    batch = {"image": jnp.asarray(rng.normal(size=(24, 9)), jnp.float32), "label": jnp.arange(24) % 4}
    pair = functools.partial(experiment.paired, key=jax.random.key(1), batch=batch)
    plain, within = pair(experiment.Method()), pair(experiment.METHODS["OT within classes"])
    sharp = pair(experiment.Method(transport=True, condition="one_hot", fraction=0.01))
    free = pair(experiment.Method(transport=True))
    cost = [float(np.sum((p.x0 - p.x1) ** 2)) for p in (free, within, plain)]
    assert cost == sorted(cost) and cost[0] < cost[1] < cost[2]
    np.testing.assert_array_equal(batch["label"][within.source], batch["label"][within.target])
    np.testing.assert_array_equal(batch["label"][sharp.source], batch["label"][sharp.target])
    assert np.any(batch["label"][free.source] != batch["label"][free.target])


def test_a_wrong_class_is_seen_by_class_and_not_in_the_pool(monkeypatch):
    rng = np.random.default_rng(1)
    label = np.arange(600) % 10
    images = (3 * np.eye(10)[label] + 0.5 * rng.normal(size=(600, 10))).astype(np.float32)
    monkeypatch.setattr(experiment, "images", lambda name, split: images)
    monkeypatch.setattr(experiment, "arrays", lambda name, split: {"label": label})
    monkeypatch.setattr(experiment, "NUM_SAMPLES", 400)
    monkeypatch.setattr(experiment, "train_classifier", functools.partial(quality.train_classifier, steps=200))
    splits, distances = experiment.prepare()
    right, wrong = distances(splits["floor"]), distances(jnp.roll(splits["floor"], 1, axis=0))
    assert right["accuracy"] > 0.9 and wrong["accuracy"] < 0.1
    assert wrong["frechet"] > 10 * right["frechet"]
    assert wrong["pooled"] == pytest.approx(right["pooled"], abs=1e-3)
