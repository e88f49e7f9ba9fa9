"""The sampler against a Gaussian whose denoiser is known, the batches, and a tiny run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import folders
from experiments.mixing import ambient_diffusion as experiment
from minibatch_jax.mixing import ambient_predictions, ambient_weights


def test_the_sampler_draws_from_a_gaussian_whose_denoiser_is_exact(monkeypatch):
    monkeypatch.setattr(
        experiment, "denoise", lambda params, x, levels: x * (0.3**2 / (0.3**2 + levels**2))[:, None] + 0 * params
    )
    samples = jax.jit(lambda p: experiment.generate(experiment.Config(), jax.random.key(0), p))(jnp.zeros(()))
    assert np.std(samples) == pytest.approx(0.3, rel=0.05)


def test_weighted_losses_are_those_of_the_points_as_they_came():
    """The loss as published, beside the weighted loss with targets that the experiment uses."""
    rng = np.random.default_rng(0)
    came = jnp.array([0.0, 0.2, 0.2, 0.2])
    levels = jnp.array([0.1, 0.25, 0.8, 0.2])
    x, inputs = jnp.asarray(rng.normal(size=(2, 4, 2)), jnp.float32)
    params = experiment.init_mlp(jax.random.key(0), (3, 4, 2))
    batch = {"x": x, "input": inputs, "noise_levels": levels, "corruption": came}
    found = experiment.losses(params, batch)[0] * ambient_weights(levels, came)
    predictions = ambient_predictions(experiment.denoise(params, inputs, levels), inputs, levels, came)
    published = (levels**2 + 0.25) / (levels * 0.5) ** 2 * jnp.sum((predictions - x) ** 2, axis=1)
    np.testing.assert_allclose(found[:3], published[:3], rtol=1e-3)
    assert found[3] == 0


def test_a_batch_has_the_share_of_clean_points_and_the_noise_levels_of_its_arm():
    config = experiment.Config(batch_size=2000)
    examples = jnp.arange(40.0).reshape(20, 2)
    declared = jnp.where(jnp.arange(20) < 5, 0, 0.2)
    draw = jax.jit(lambda *options: experiment.draw_batch(config, jax.random.key(0), examples, declared, 5, *options))
    batch = draw(0.3, True)
    rows = np.asarray(batch["x"])[:, 0] / 2
    assert np.mean(rows < 5) == pytest.approx(0.3, abs=0.04) and set(rows) == set(range(20))
    np.testing.assert_array_equal(batch["corruption"] == 0, rows < 5)
    assert np.any(batch["noise_levels"] == batch["corruption"])
    assert np.all(draw(0.0, False)["noise_levels"] > 0.2)


@pytest.mark.slow
def test_a_tiny_run_gives_both_figures_of_every_arm(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(experiment, "HEUN_STEPS", 3)
    config = experiment.Config(seeds=(0,), out=str(tmp_path), steps=2, batch_size=8, hidden=4, samples=16)
    records = experiment.main(config)
    assert len(records) == len(experiment.METHODS)
    assert len({round(r["metrics"]["sliced_w2"], 6) for r in records}) > 5
