"""Fréchet distance, pairings and costs of the experiment against closed forms, scipy and plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from experiments.coupling import _image_quality as quality
from experiments.coupling import flow_matching_images as experiment
from experiments.shared import step_costs


def test_frechet_distance_equals_scipy_and_the_closed_form():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5))
    y = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)) + 1
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    assert quality.frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    assert quality.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    shifted_and_scaled = quality.frechet_distance(x, 3 * (x - x.mean(0)) + x.mean(0) + 2)
    assert shifted_and_scaled == pytest.approx(5 * 4 + 4 * np.trace(cov_x), rel=1e-6)


def test_the_classifier_learns_and_its_features_see_a_missing_class():
    rng = np.random.default_rng(1)
    label = rng.integers(0, 10, 600)
    images = (3 * np.eye(10)[label] + 0.5 * rng.normal(size=(600, 10))).astype(np.float32)
    classifier = quality.train_classifier(images, label, steps=200)
    assert (np.asarray(quality.mlp(classifier, images)).argmax(1) == label).mean() > 0.9
    frechet = quality.frechet_to(classifier, images[:300])
    assert frechet(images[300:]) < 0.2 * frechet(images[300:][label[300:] < 5])


def test_pairings_keep_the_images_in_order_and_weigh_as_they_say():
    x1 = np.random.default_rng(0).normal(size=(16, 9)).astype(np.float32) + 1
    methods = experiment.methods(experiment.Config(kappas=(0.5,)))
    pairs = {name: jax.jit(pairing)(jax.random.key(1), x1) for name, pairing in methods.items()}
    pairs = jax.tree.map(np.asarray, pairs)
    for found in pairs.values():
        np.testing.assert_array_equal(found.x1[np.argsort(found.target)], x1)
        assert np.sum(found.weights) == pytest.approx(1, rel=1e-5)
    plain, exact, weighted = pairs["independent"], pairs["exact OT"], pairs["weighted, 0.5"]
    cost = np.square(np.asarray(plain.x0)[:, None] - np.asarray(x1)[None]).sum(-1)
    best = cost[scipy.optimize.linear_sum_assignment(cost)].mean()
    assert np.mean(np.sum((exact.x0 - exact.x1) ** 2, axis=1)) == pytest.approx(best, rel=1e-5)
    expected = np.exp(-np.sqrt(np.diag(cost)) / (0.5 * 3))
    np.testing.assert_allclose(weighted.weights, expected / expected.sum(), rtol=1e-4)
    np.testing.assert_array_equal(weighted.x0, plain.x0)
    near, immiscible = (
        np.mean(np.sum((p.x0 - p.x1) ** 2, axis=1)) for p in (pairs["nearest of 4"], pairs["immiscible"])
    )
    assert max(near, immiscible) < 0.9 * cost.trace() / 16


def test_sliced_distance_of_a_shift_is_its_length_along_the_directions():
    x = jax.random.normal(jax.random.key(2), (20, 2))
    found = experiment.sliced_distance(x + jnp.array([[3.0, 0.0]]), x, jnp.eye(2))
    assert float(found) == pytest.approx((9 / 2) ** 0.5, rel=1e-5)


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
    config = experiment.Config(seeds=(0,), out=str(tmp_path), arms=("independent",), hidden=8, batch_size=8)
    config = dataclasses.replace(config, steps=20, longer_steps=40, evaluate_every=20, checkpoint_every=20)
    records = experiment.main(config)
    assert [(r["arm"], r["step"]) for r in records] == [("independent", 20), (experiment.LONGER, 40)]
    text = (tmp_path / "few_steps.md").read_text()
    assert "Fréchet" in text and experiment.LONGER in text
    for name in ("samples.png", "few_steps.png", "costs.md"):
        assert (tmp_path / name).exists()
