"""Images and weights of the experiment against their definitions."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.coupling import _image_quality as quality
from experiments.coupling import weighted_flow_images as experiment
from experiments.shared import step_costs


def test_images_of_one_length_leave_the_weights_no_preference(monkeypatch):
    """Over all rotations of the noise an image of another direction weighs the same."""
    monkeypatch.setattr(experiment, "PIXELS", 2)
    angle = np.array([0.3, 2.0])
    image = experiment.scaled(3 * np.stack([np.cos(angle), np.sin(angle)], 1), "of one length")
    np.testing.assert_allclose((image**2).mean(1), 0.75, rtol=1e-5)
    noise = np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)
    pair = experiment.pairings(experiment.Config(kappas=(0.5,)))["weighted, 0.5"]
    pairs = pair(noise, np.repeat(image, 2000, axis=0))
    kernel = np.exp(-np.linalg.norm(noise - np.repeat(image, 2000, axis=0), axis=1) / (0.5 * 2**0.5))
    np.testing.assert_allclose(pairs.weights, kernel / kernel.sum(), rtol=1e-3)
    assert np.sum(pairs.weights[:2000]) == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_a_tiny_run_leaves_tables_and_pictures(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(experiment, "images", lambda name, split: rng.uniform(-1, 1, (160, 196)).astype(np.float32))
    monkeypatch.setattr(experiment, "arrays", lambda name, split: {"label": np.arange(160) % 10})
    monkeypatch.setattr(experiment, "NUM_SAMPLES", 40)
    monkeypatch.setattr(
        experiment, "train_classifier", lambda images, label: quality.init_mlp(jax.random.key(0), (196, 8, 10))
    )
    monkeypatch.setattr(step_costs, "STEPS", 1)
    monkeypatch.setattr(step_costs, "REPEATS", 1)
    config = experiment.Config(seeds=(0,), out=str(tmp_path), hidden=8, batch_size=8, kappas=(0.3,))
    records = experiment.main(dataclasses.replace(config, steps=50, evaluate_every=50, checkpoint_every=50))
    assert [r["arm"] for r in records if r["step"] == 50] == 2 * ["independent", "weighted, 0.3", "exact OT"]
    assert (tmp_path / "of_one_length" / "samples.png").exists()
