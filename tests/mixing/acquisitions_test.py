"""What evaluations may gain, beside exact forms in the tails, quadrature and Monte Carlo."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from minibatch_jax.mixing import acquisitions

log_expected_improvement = jax.jit(acquisitions.log_expected_improvement)
max_value_gain = jax.jit(acquisitions.max_value_gain)
fidelity_max_value_gain = jax.jit(acquisitions.fidelity_max_value_gain)


def log_phi(z):
    return -(z**2) / 2 - np.log(2 * np.pi) / 2


def improvement_by_quadrature(z):
    """log of the integral of max(t + z, 0) over the normal density, with its largest factor taken out."""
    if z > -3:
        return np.log(integrate.quad(lambda t: (t + z) * np.exp(log_phi(t)), -z, 12 + abs(z))[0])
    # t = -z + u / -z: the density falls as exp(-u)
    far = integrate.quad(lambda u: u * np.exp(-u - (u / z) ** 2 / 2), 0, 60, epsabs=0, epsrel=1e-12)[0]
    return log_phi(z) + np.log(far / z**2)


def gain_by_quadrature(gamma, rho):
    """Entropy of a normal variable minus that of z given v <= gamma, v and z normal with correlation rho."""
    other = np.sqrt(1 - rho**2)

    def log_density(z):
        return log_phi(z) + special.log_ndtr((gamma - rho * z) / other) - special.log_ndtr(gamma)

    def part(z):
        return np.exp(log_density(z)) * log_density(z)

    edge = np.clip(gamma / max(rho, 1e-9), -20, 20)
    ends = [-40.0, *sorted({edge - 8 * other, edge, edge + 8 * other}), 40.0]
    entropy = -sum(integrate.quad(part, a, b, limit=300, epsabs=1e-12)[0] for a, b in itertools.pairwise(ends))
    return np.log(2 * np.pi * np.e) / 2 - entropy


def test_log_expected_improvement_is_the_integral_also_far_below_the_best():
    z = np.array([-3000.0, -100.0, -12.0, -3.01, -2.99, -1.0, 0.0, 2.0, 20.0])
    deviation, best = 0.25, 1.5
    found = log_expected_improvement(jnp.float32(best + deviation * z), jnp.float32(deviation), best)
    expected = np.log(deviation) + np.array([improvement_by_quadrature(v) for v in z])
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_expected_improvement_is_that_of_draws():
    draws = np.random.default_rng(0).normal(0.3, 0.8, 400_000)
    found = np.exp(float(log_expected_improvement(jnp.float32(0.3), jnp.float32(0.8), 0.7)))
    assert found == pytest.approx(np.maximum(draws - 0.7, 0).mean(), rel=0.01)


def test_log_expected_improvement_ranks_where_the_improvement_is_zero():
    means = jnp.linspace(-9e3, -8e3, 5)
    found = np.asarray(log_expected_improvement(means, jnp.float32(1), 0.0))
    assert np.all(np.isfinite(found)) and np.all(np.diff(found) > 0)
    known = log_expected_improvement(jnp.array([2.0, 0.0]), jnp.zeros(2), 0.5)
    assert known.tolist() == [pytest.approx(np.log(1.5), rel=1e-6), -np.inf]


def test_max_value_gain_is_the_loss_of_entropy_of_a_variable_cut_off():
    gamma = np.array([-50.0, -6.0, -3.01, -2.99, -0.5, 0.0, 1.5, 4.0])
    found = max_value_gain(jnp.float32(-0.5 * gamma), jnp.float32(0.5), jnp.float32(0))
    hazard = np.exp(log_phi(gamma) - special.log_ndtr(gamma))
    np.testing.assert_allclose(found, gamma * hazard / 2 - special.log_ndtr(gamma), rtol=1e-4)
    assert float(max_value_gain(jnp.float32(0.2), jnp.float32(0.7), 1.0)) == pytest.approx(0.27114, abs=1e-5)
    assert float(max_value_gain(jnp.float32(0.2), jnp.float32(0), 1.0)) == 0


def test_fidelity_max_value_gain_is_the_loss_of_entropy_of_the_observation():
    gammas, rhos = np.array([-4.0, -1.0, 0.0, 8 / 7, 3.0]), np.array([0.1, 0.5, 0.70, 0.72, 0.9, 0.999, 0.99999])
    expected = [[gain_by_quadrature(g, float(np.float32(r))) for r in rhos] for g in gammas]
    found = fidelity_max_value_gain(jnp.float32(-gammas[:, None]), jnp.float32(1), 0.0, jnp.float32(rhos[None]))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    mirrored = fidelity_max_value_gain(jnp.float32(-gammas[:, None]), jnp.float32(1), 0.0, jnp.float32(-rhos[None]))
    np.testing.assert_array_equal(mirrored, found)


def test_fidelity_max_value_gain_at_its_ends():
    half = fidelity_max_value_gain(jnp.float32(0.2), jnp.float32(0.7), 1.0, jnp.array([0.0, 0.5, 0.9999, 1.0, -1.0]))
    np.testing.assert_allclose(half, [0, 0.04295, 0.2681, 0.27114, 0.27114], atol=3e-5)
    far = np.array([-30.0, -5.0, 0.0, 5.0, 30.0], np.float32)
    assert np.all(np.isfinite(fidelity_max_value_gain(far[:, None], jnp.float32(1), 0.0, jnp.linspace(-1, 1, 9)[None])))
    assert float(fidelity_max_value_gain(jnp.float32(0), jnp.float32(0), 1.0, jnp.float32(0.5))) == 0
