"""Estimates and samplers of the experiment against what is known of Gaussian data, and counts by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.coupling import _diffusion as diffusion
from experiments.coupling import immiscible_diffusion as experiment


@pytest.fixture
def blank(monkeypatch):
    """A network that says nothing: the best one, if the data are Gaussian with the deviation it assumes."""
    monkeypatch.setattr(diffusion, "velocity", lambda params, x, t: jnp.zeros_like(x))


def test_a_blank_network_gives_the_posterior_mean_of_gaussian_data(blank):
    xt, t = jax.random.normal(jax.random.key(0), (5, 3)), jnp.linspace(0, 0.99, 5)
    image, noise = diffusion.cosine_factors(t)
    found = diffusion.estimate((), xt, t, image, noise)
    variance = diffusion.DATA_DEVIATION**2
    gain = image * variance / (image**2 * variance + noise**2)
    np.testing.assert_allclose(found.x, gain[:, None] * xt, rtol=1e-5, atol=1e-6)


def test_image_and_noise_make_up_the_noisy_image_whatever_the_network_says(monkeypatch):
    monkeypatch.setattr(diffusion, "velocity", lambda params, x, t: jnp.sin(3 * x) + t[:, None])
    xt, t = jax.random.normal(jax.random.key(1), (6, 3)), jnp.linspace(0, 0.9, 6)
    image, noise = diffusion.cosine_factors(t)
    found = diffusion.estimate((), xt, t, image, noise)
    np.testing.assert_allclose(image[:, None] * found.x + noise[:, None] * found.z, xt, rtol=1e-4, atol=1e-5)


def test_ddim_carries_gaussian_noise_to_gaussian_data(blank):
    noise = jax.random.normal(jax.random.key(2), (4, 3))
    end = jax.jit(lambda x: diffusion.ddim((), x, 300))(noise)
    np.testing.assert_allclose(end, diffusion.DATA_DEVIATION * noise, rtol=0.02)


def test_a_consistency_model_ends_where_it_is_at_the_least_noise(monkeypatch):
    monkeypatch.setattr(diffusion, "velocity", lambda params, x, t: params * x)
    levels = diffusion.noise_levels()
    np.testing.assert_allclose(levels[jnp.array([0, -1])], [diffusion.LEAST, diffusion.MOST], rtol=1e-3)
    x = jnp.ones((2, 3))
    np.testing.assert_allclose(diffusion.consistent(2.0, x, jnp.full(2, diffusion.LEAST)), x, rtol=1e-6)
    monkeypatch.setattr(diffusion, "LEVELS", 2)  # the target is then the clean image, whatever the network is
    draw = jax.random.normal(jax.random.key(3), (2, 3))
    loss = diffusion.consistency_losses(0.3, jax.random.key(4), x, draw)
    made = diffusion.consistent(0.3, x + diffusion.MOST * draw, jnp.full(2, diffusion.MOST))
    np.testing.assert_allclose(loss, np.sum((made - x - diffusion.LEAST * draw) ** 2, axis=1), rtol=1e-3)


def test_updates_to_a_quality_are_read_off_the_curve():
    curve = [(100, 9.0), (200, 5.0), (300, 6.0), (400, 3.0)]
    assert experiment.updates_to(6.0, curve) == pytest.approx(175)
    assert experiment.updates_to(4.0, curve) == pytest.approx(300 + 100 * 2 / 3)
    assert experiment.updates_to(20.0, curve) == 100
    assert math.isnan(experiment.updates_to(1.0, curve))
