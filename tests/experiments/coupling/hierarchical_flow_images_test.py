"""Samples of the experiment of a model whose samples are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.coupling import hierarchical_flow_images as experiment
from experiments.shared import step_costs


def test_the_best_split_is_chosen_on_training_images(monkeypatch):
    """The velocity of this model is its noise plus 3 with one step below, and 3 with two or more."""
    test = jnp.full((5, 64), 3.0)
    data = {"noise": jnp.zeros((5, 64)), "test": test, "directions": jnp.eye(64)}
    monkeypatch.setattr(experiment, "EVALUATIONS", (2,))
    monkeypatch.setattr(experiment, "depth_of", lambda params, pixels: 2)
    monkeypatch.setattr(experiment, "predict", lambda params, s, t: 3 - jnp.where(t[:, 1:] > 0, 2 * s[:, 1] - 3, 0))
    for validation, outer in ((test, 1), (test + jax.random.normal(jax.random.key(0), (5, 64)), None)):
        metrics, samples = jax.jit(lambda v: experiment.measure((), data | {"validation": v}))(validation)
        if outer:
            assert float(metrics["outer_steps_at_2"]) == outer
            np.testing.assert_allclose(samples["2"], test, rtol=1e-5)
            assert float(metrics["sliced_w2_at_2"]) == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_a_tiny_run_leaves_tables_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(step_costs, "STEPS", 1)
    monkeypatch.setattr(step_costs, "REPEATS", 1)
    arms = ("CFM", "HRF2-DV, two stages")
    config = experiment.Config(seeds=(0,), out=str(tmp_path), batch_size=10, hidden=8, arms=arms)
    config = dataclasses.replace(config, steps=100, evaluate_every=100, checkpoint_every=100)
    records = experiment.main(config)
    assert [r["arm"] for r in records if r["step"] == 100] == list(arms)
    assert (tmp_path / "samples.png").exists() and (tmp_path / "costs.md").exists()
