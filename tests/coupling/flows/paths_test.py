"""Paths against the formulas of torchcfm, written out in numpy, and velocities against the derivative by time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from minibatch_jax.coupling import conditional_path, score_weight
from minibatch_jax.coupling.flows.paths import FROM_NOISE, PATHS

ALL = pytest.mark.parametrize("path", PATHS)


def means_and_deviation(path, t, x0, x1, sigma):
    """Mean and standard deviation of the place; for paths from noise the mean is that of standard Gaussian sources."""
    t = t[:, None]
    if path == "straight":
        return t * x1 + (1 - t) * x0, sigma + 0 * t
    if path == "variance_preserving":
        return np.cos(np.pi / 2 * t) * x0 + np.sin(np.pi / 2 * t) * x1, sigma + 0 * t
    if path == "target":
        return t * x1, 1 - (1 - sigma) * t
    return np.sin(np.pi / 2 * t) * x1, sigma + (1 - sigma) * np.cos(np.pi / 2 * t)


@ALL
def test_places_are_mean_and_deviation_times_the_noise(path):
    rng = np.random.default_rng(0)
    x0, x1 = rng.normal(size=(2, 5, 3)).astype(np.float32)
    t = np.array([0, 0.1, 0.5, 0.9, 1], np.float32)
    found = conditional_path(1, jnp.asarray(x0), jnp.asarray(x1), 0.3, jnp.asarray(t), path=path, return_noise=True)
    mean, deviation = means_and_deviation(path, t, x0, x1, 0.3)
    np.testing.assert_allclose(found.xt, mean + deviation * np.asarray(found.noise), rtol=1e-5, atol=1e-6)
    if path in FROM_NOISE:
        np.testing.assert_array_equal(found.noise, x0)
    plain = conditional_path(1, jnp.asarray(x0), jnp.asarray(x1), 0.3, jnp.asarray(t), path=path)
    for name in ("t", "xt", "ut"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(found, name))


@ALL
@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_velocity_is_the_derivative_by_time(path, sigma):
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x0, x1 = (jnp.asarray(x) for x in rng.normal(size=(2, 6, 2, 2)))
        times = jnp.linspace(0.0, 1.0, 6)

        @jax.jit
        def slope_and_velocity(times):
            place = lambda t: conditional_path(2, x0, x1, sigma, t, path=path).xt  # noqa: E731
            velocity = conditional_path(2, x0, x1, sigma, times, path=path).ut
            return jax.jvp(place, (times,), (jnp.ones_like(times),))[1], velocity

        np.testing.assert_allclose(*slope_and_velocity(times), rtol=1e-12, atol=1e-12)


def test_the_target_path_has_the_velocity_of_lipman_et_al():
    rng = np.random.default_rng(2)
    x0, x1 = rng.normal(size=(2, 7, 3)).astype(np.float32)
    t, sigma = np.linspace(0, 0.9, 7, dtype=np.float32), 0.1
    _, xt, ut = conditional_path(0, jnp.asarray(x0), jnp.asarray(x1), sigma, jnp.asarray(t), path="target")
    expected = (x1 - (1 - sigma) * np.asarray(xt)) / (1 - (1 - sigma) * t[:, None])
    np.testing.assert_allclose(ut, expected, rtol=1e-4, atol=1e-5)


def test_paths_without_noise_of_their_own_draw_a_standard_one():
    zeros = jnp.zeros((20_000, 1))
    for path in ("straight", "variance_preserving"):
        noise = np.asarray(conditional_path(3, zeros, zeros, 0.5, path=path, return_noise=True).noise)
        np.testing.assert_allclose([noise.mean(), noise.var()], [0, 1], atol=0.03)


@pytest.mark.parametrize("path", [*PATHS, "bridge"])
def test_the_weighted_score_has_unit_variance_at_every_time(path):
    t, sigma = np.linspace(0.05, 0.95, 7, dtype=np.float32), 0.6
    deviation = sigma * np.sqrt(t * (1 - t))
    if path != "bridge":
        deviation = means_and_deviation(path, t, 0, 0, sigma)[1][:, 0]
    weight = score_weight(jnp.asarray(t), sigma, path=path)
    np.testing.assert_allclose(weight, 2 * deviation / sigma**2, rtol=1e-5)
    noise = np.random.default_rng(4).normal(size=(50_000, 1)).astype(np.float32)
    np.testing.assert_allclose(np.var(sigma**2 / 2 * np.asarray(weight) * noise / deviation, axis=0), 1, rtol=0.02)


def test_bad_input_is_named():
    x = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="path is 'curved', wanted one of 'straight'"):
        conditional_path(0, x, x, path="curved")
    with pytest.raises(ValueError, match="sigma is 0.0, wanted a number in"):
        conditional_path(0, x, x, return_noise=True)
    with pytest.raises(ValueError, match="sigma is 1.5"):
        conditional_path(0, x, x, 1.5, path="target")
    with pytest.raises(ValueError, match="sigma is 0.0"):
        score_weight(jnp.ones(2), 0.0)
    with pytest.raises(TypeError, match="t has dtype int32"):
        score_weight(jnp.ones(2, jnp.int32), 1.0)
