"""Sampler, distances and velocity laws of the experiment against closed forms, scipy and POT."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.stats

from experiments.coupling import hierarchical_flow as experiment
from experiments.shared import step_costs


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(experiment, "NUM_TRAIN", 400)
    monkeypatch.setattr(experiment, "NUM_TEST", 40)
    monkeypatch.setattr(experiment, "EVALUATIONS", (2,))
    monkeypatch.setattr(step_costs, "STEPS", 1)
    monkeypatch.setattr(step_costs, "REPEATS", 1)


def test_every_split_costs_what_it_says(monkeypatch):
    calls = []
    monkeypatch.setattr(experiment, "predict", lambda params, x, t, v, tau: calls.append(1) or jnp.zeros_like(x))
    for hierarchical in (False, True):
        for n in (2, 4, 6):
            for outer, inner in experiment.splits(n, hierarchical):
                calls.clear()
                with jax.disable_jit():
                    experiment.trajectories((), jax.random.key(0), jnp.zeros((3, 1)), outer, inner)
                assert len(calls) == n
    assert experiment.splits(8, True) == [(4, 2), (2, 4), (1, 8)]


def test_the_inner_level_arrives_at_the_velocity_whatever_its_noise(monkeypatch):
    """The acceleration towards a point u is (u - v) / (1 - tau); for u = x the places double, then grow by 3/2."""
    monkeypatch.setattr(experiment, "predict", lambda params, x, t, v, tau: (x - v) / (1 - tau)[:, None])
    noise = jax.random.normal(jax.random.key(1), (5, 2))
    for inner in (2, 5):
        places = experiment.trajectories((), jax.random.key(2), noise, 2, inner)
        np.testing.assert_allclose(places, noise[None] * jnp.array([1, 1.5, 2.25])[:, None, None], rtol=1e-5)


def test_a_flow_of_one_level_is_euler_with_its_times(monkeypatch):
    monkeypatch.setattr(experiment, "predict", lambda params, x, t, v, tau: jnp.ones_like(x) * t[:, None] + v + tau[0])
    places = experiment.trajectories((), jax.random.key(0), jnp.zeros((3, 1)), 4, 0)
    np.testing.assert_allclose(places[-1], (0 + 0.25 + 0.5 + 0.75) / 4, rtol=1e-6)


def test_distances_equal_scipy_and_pot():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30, 1)).astype(np.float32)
    found = experiment.distance_to(x, y, experiment.directions(1))
    assert float(found) == pytest.approx(scipy.stats.wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-5)
    x, y = rng.normal(size=(2, 30, 2)).astype(np.float32)
    directions = experiment.directions(2)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, rtol=1e-6)
    found = experiment.distance_to(x, y, directions)
    assert float(found) == pytest.approx(ot.sliced_wasserstein_distance(x, y, projections=directions), rel=1e-5)


def test_the_law_of_independent_velocities_is_that_of_bayes():
    """At t = 1/2 the velocity is 2 (x1 - xt), so its variance is 4 times that of x1 given x0 + x1."""
    x1 = np.linspace(-2, 2, 801)
    prior = scipy.stats.norm.pdf(x1, -1, 0.1) + scipy.stats.norm.pdf(x1, 1, 0.1)
    total = np.linspace(-6, 6, 1201)
    joint = prior[:, None] * scipy.stats.norm.pdf(total[None] - x1[:, None])
    mass = joint.sum(0)
    mean, square = ((x1[:, None] ** p * joint).sum(0) / mass for p in (1, 2))
    expected = 4 * ((square - mean**2) * mass).sum() / mass.sum()
    found = experiment.velocity_law(1, 0)
    assert found["variance"] == pytest.approx(expected, rel=0.04)
    assert experiment.velocity_law(5, 0)["variance"] < 0.5 * found["variance"]


def test_the_target_of_one_level_is_the_velocity_of_the_pairs(monkeypatch):
    """A network that knows x1 - x0 has no loss; it is handed zeros where the second level would be."""
    x1 = jax.random.normal(jax.random.key(0), (8, 2))
    method = experiment.Method(False, 1)
    path = experiment.hierarchical_path(jax.random.key(3), x1)

    def predict(params, x, t, v, tau):
        assert not v.any() and not tau.any()
        np.testing.assert_allclose(x, path.xt)
        return x1 - path.x0

    monkeypatch.setattr(experiment, "predict", predict)
    assert float(experiment.loss_fn((), jax.random.key(3), x1, method)) == 0


@pytest.mark.slow
def test_a_tiny_run_leaves_tables_and_pictures(tmp_path, small):
    config = experiment.Config(seeds=(0,), out=str(tmp_path), batch_size=10, hidden=8, arms=("CFM", "HRF2"))
    config = dataclasses.replace(config, task="two_modes", steps=100, evaluate_every=100, checkpoint_every=100)
    records = experiment.main(config)
    assert [r["arm"] for r in records if r["step"] == 100] == ["CFM", "HRF2"]
    assert (tmp_path / "law" / "table.md").exists()
    for name in ("samples.png", "costs.md", "table.md"):
        assert (tmp_path / "two_modes" / name).exists()
