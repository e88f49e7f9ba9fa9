"""Distances of samples by hand, and a generator that learns a single image."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.coupling import transport_generator as experiment


@pytest.fixture
def small(monkeypatch):
    """Copies of one image, so that every coupling wants the same; no classifier."""
    image = np.tile(np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1)), (40, 1, 1, 1)).astype(np.uint8)
    split = {"image": image, "label": np.arange(40) % 10}
    monkeypatch.setattr(experiment, "arrays", lambda name, which: split)
    monkeypatch.setattr(experiment, "train_classifier", lambda *args: None)
    monkeypatch.setattr(experiment, "frechet_to", lambda *args: lambda x: 0.0)
    monkeypatch.setattr(experiment, "NUM_SAMPLES", 40)


def test_distances_of_shifted_images_are_the_shift():
    x = jnp.asarray(np.random.default_rng(1).uniform(size=(30, 4)), jnp.float32)
    found = experiment.distances(x + 0.5, x[jnp.arange(30)[::-1]])
    assert float(found["w2"]) == pytest.approx(1, rel=1e-5)  # 0.5 in each of 4 pixels
    assert float(found["sliced_w2"]) == pytest.approx(0.5, rel=0.2)
    assert float(found["spread"]) == pytest.approx(1, rel=1e-5)


def test_a_tiny_generator_comes_near_to_the_only_image(tmp_path, small):
    config = experiment.Config(seeds=(0,), out=str(tmp_path), arms=("BoMb-OT",), steps=40, batch_size=8)
    config = dataclasses.replace(
        config, mini_batches=2, evaluate_every=20, checkpoint_every=40, hidden=32, learning_rate=0.02
    )
    first, last = (record["metrics"]["w2"] for record in experiment.main(config))
    assert last < first and last < 3  # a gray image is 8 away
    assert (tmp_path / "samples.png").exists()
