"""Samples of the experiment of a model whose samples are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.coupling import hierarchical_flow_images as experiment
from experiments.shared import step_costs
from minibatch_jax.coupling import hierarchical_path, second_stage_path


def test_a_network_that_knows_the_image_has_no_loss_and_gives_the_target(monkeypatch):
    image = jax.random.normal(jax.random.key(0), (6, 64))
    model = lambda states, times: jnp.zeros_like(states[:, 0])  # noqa: E731
    for groups in ((1,), (6, 1), (1, 1, 1)):
        path = hierarchical_path(1, image, groups=groups)
        monkeypatch.setattr(experiment, "predict", lambda params, s, t: image)
        assert float(experiment.loss_fn((), path)) == pytest.approx(0, abs=1e-6)
        found = experiment.velocity((), path.states, path.times)
        near_the_end = jnp.max(path.times, axis=1) > 1 - experiment.LEAST_TIME_LEFT
        np.testing.assert_allclose(found[~near_the_end], path.target[~near_the_end], rtol=1e-3, atol=1e-2)
    path = second_stage_path(2, model, hierarchical_path(1, image, groups=(1, 1)), draws=2, num_steps=1)
    drawn = path.states[:, 0] + (1 - path.times[:, :1]) * (path.target + path.noise[:, 1])
    monkeypatch.setattr(experiment, "predict", lambda params, s, t: drawn)
    assert float(experiment.loss_fn((), path)) == pytest.approx(0, abs=1e-6)


def test_the_best_split_is_chosen_on_training_images(monkeypatch):
    """The velocity of this model is its noise with one step below, and 3 with two."""
    test = jnp.full((5, 64), 3.0)
    data = {"noise": jnp.zeros((5, 64)), "test": test, "directions": jnp.eye(64), "validation": test}
    monkeypatch.setattr(experiment, "EVALUATIONS", (2,))
    monkeypatch.setattr(experiment, "depth_of", lambda params, pixels: 2)
    monkeypatch.setattr(experiment, "velocity", lambda params, s, t: jnp.where(t[:, 1:] > 0, 6 - 2 * s[:, 1], 0))
    metrics, samples = jax.jit(lambda data: experiment.measure((), data))(data)
    assert float(metrics["outer_steps_at_2"]) == 1
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
