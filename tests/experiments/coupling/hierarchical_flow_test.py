"""Stages, distances and velocity laws of the experiment against closed forms, scipy and POT."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.stats

from experiments.coupling import _hierarchical
from experiments.coupling import hierarchical_flow as experiment
from experiments.engine import State
from experiments.shared import step_costs


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(experiment, "NUM_TRAIN", 400)
    monkeypatch.setattr(experiment, "NUM_TEST", 40)
    monkeypatch.setattr(experiment, "EVALUATIONS", (2,))
    monkeypatch.setattr(step_costs, "STEPS", 1)
    monkeypatch.setattr(step_costs, "REPEATS", 1)


def test_every_split_costs_what_it_says():
    for n in (1, 2, 4, 6):
        for levels in (1, 2, 3):
            found = _hierarchical.splits(n, levels)
            assert {len(steps) for steps in found} == {levels} and {math.prod(steps) for steps in found} == {n}
            assert len(set(found)) == len(found)
    assert _hierarchical.splits(4, 2) == [(1, 4), (2, 2), (4, 1)]


def test_the_second_stage_begins_half_way_with_the_model_of_that_step():
    """Before it, paths come from the data; after it, from a first stage that does not change any more."""
    config = dataclasses.replace(experiment.Config(), steps=4, draws=3, draw_steps=2)
    method = _hierarchical.Method((6, 1), draws=3)
    fields = _hierarchical.start(method, 2, (8,), jax.random.key(0))
    x1 = jax.random.normal(jax.random.key(1), (6, 2))
    other = jax.tree.map(lambda x: x + 1, fields["params"])
    key = jax.random.key(2)
    step = jax.jit(lambda state: _hierarchical.training_path(config, method, key, x1, state, _hierarchical.predict))

    def at(number, teacher):
        return step(State(other, (), teacher, fields["keys"], jnp.int32(number)))

    (first, kept), (second, taken), (later, same) = at(1, fields["params"]), at(2, fields["params"]), at(3, other)
    jax.tree.map(np.testing.assert_array_equal, (kept, taken, same), (fields["params"], other, other))
    np.testing.assert_allclose(first.target + first.noise.sum(1), x1, rtol=1e-5, atol=1e-5)
    for path in (second, later):
        assert path.states.shape == first.states.shape
        np.testing.assert_array_equal(path.states[:3, 0], np.repeat(first.states[:1, 0], 3, axis=0))
    jax.tree.map(np.testing.assert_array_equal, second, later)


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


@pytest.mark.slow
def test_a_tiny_run_leaves_tables_and_pictures(tmp_path, small):
    config = experiment.Config(
        seeds=(0,), out=str(tmp_path), batch_size=10, hidden=8, arms=("CFM", "HRF2-DV, two stages")
    )
    config = dataclasses.replace(config, task="two_modes", steps=100, evaluate_every=100, checkpoint_every=100)
    records = experiment.main(config)
    assert [r["arm"] for r in records if r["step"] == 100] == ["CFM", "HRF2-DV, two stages"]
    assert (tmp_path / "law" / "table.md").exists()
    for name in ("samples.png", "costs.md", "table.md"):
        assert (tmp_path / "two_modes" / name).exists()
