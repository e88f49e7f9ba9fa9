"""Plans, limits and pairings of the experiment against POT and plain NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from experiments.coupling import _weighted_theory as theory
from experiments.coupling import weighted_flow as experiment
from experiments.shared import step_costs


def points(setting, size=12):
    return tuple(np.asarray(x, np.float64) for x in theory.clouds(setting, np.random.default_rng(0), size))


def test_plans_equal_pot_and_the_weighted_one_is_entropic_transport_of_its_marginals():
    x0, x1 = points("moons")
    cost = ot.dist(x0, x1, "euclidean")
    found = theory.plans(jnp.asarray(x0, jnp.float32), jnp.asarray(x1, jnp.float32), 1.5)
    kernel = np.exp(-cost / 1.5)
    np.testing.assert_allclose(found["weighted"], kernel / kernel.sum(), rtol=1e-4)
    uniform = np.full(12, 1 / 12)
    np.testing.assert_allclose(found["entropic"], ot.sinkhorn(uniform, uniform, cost, 1.5), atol=2e-5)
    np.testing.assert_allclose(found["tilted"], found["weighted"], atol=2e-5)
    assert theory.distance(found["weighted"], found["entropic"]) > 0.05


def test_on_circles_no_marginal_is_biased():
    curve = theory.bias("circles", 12, (1.0,), 0)[1.0]
    assert max(curve["to_entropic_plan"], curve["source_marginal"], curve["target_marginal"]) < 1e-4
    assert curve["cost_of_weighted"] < 0.95 * curve["cost_of_independent"]


def test_the_mean_over_batches_of_one_pair_is_known(monkeypatch):
    """A batch of one pair has one plan, so the mean over batches is the independent plan, whatever the cost."""
    monkeypatch.setattr(theory, "BATCHES", 2000)
    x0, x1 = theory.clouds("modes", np.random.default_rng(0), 4)
    found = theory.plans(x0, x1, 1.0)
    for name, mean in (("entropic", theory.mean_entropic), ("weighted", theory.mean_weighted)):
        np.testing.assert_allclose(
            found[name] + mean(jax.random.key(0), found, 1.0, 1), np.full((4, 4), 1 / 16), atol=0.02
        )


def test_pairings_weigh_as_they_say():
    rng = np.random.default_rng(1)
    x0, x1 = rng.normal(size=(2, 8, 2)).astype(np.float32)
    arms = experiment.pairings(experiment.Config(train_epsilons=(0.5,)))
    plain, weighted, exact = (
        arms[name](jax.random.key(0), x0, x1) for name in ("independent", "weighted, 0.5", "exact")
    )
    kernel = np.exp(-np.linalg.norm(x0 - x1, axis=1) / 0.5)
    np.testing.assert_allclose(weighted.weights, kernel / kernel.sum(), rtol=1e-4)
    np.testing.assert_array_equal(plain.x0, x0)
    lengths = np.linalg.norm(exact.x0 - exact.x1, axis=1)
    assert lengths.mean() == pytest.approx(ot.emd2([], [], ot.dist(x0, x1, "euclidean")), rel=1e-4)


@pytest.mark.slow
def test_a_tiny_run_leaves_tables_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "NUM_TRAIN", 200)
    monkeypatch.setattr(experiment, "NUM_TEST", 40)
    monkeypatch.setattr(theory, "BATCHES", 3)
    monkeypatch.setattr(step_costs, "STEPS", 1)
    monkeypatch.setattr(step_costs, "REPEATS", 1)
    config = experiment.Config(seeds=(0,), out=str(tmp_path), points=8, few_points=4, batch_sizes=(4,), hidden=8)
    config = dataclasses.replace(config, steps=100, batch_size=8, evaluate_every=100, checkpoint_every=100)
    records = experiment.main(config)
    assert len([r for r in records if r["step"] == 100]) == 3 * len(experiment.pairings(config))
    assert (tmp_path / "plans.png").exists() and (tmp_path / "moons" / "costs.md").exists()
