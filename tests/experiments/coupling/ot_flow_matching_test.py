"""Metrics of the flow-matching experiment against closed forms, scipy and POT."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.optimize

from experiments.coupling import _flows
from experiments.coupling import ot_flow_matching as experiment


def _measured(monkeypatch, field, noise, test):
    monkeypatch.setattr(_flows, "velocity", lambda params, x, t: field(x, t))
    data = {"test": test, "noise": noise, "directions": jnp.eye(noise.shape[1])}
    return jax.jit(lambda data: experiment.measure((), data))(data)


def test_a_constant_field_is_straight_and_exact_in_any_number_of_steps(monkeypatch):
    noise = jax.random.normal(jax.random.key(0), (12, 3))
    metrics, samples = _measured(monkeypatch, lambda x, t: jnp.ones_like(x), noise, noise + 1)
    assert float(metrics["straightness"]) == pytest.approx(0, abs=1e-10)
    assert float(metrics["path_energy_ratio"]) == pytest.approx(1, abs=1e-5)
    for n in experiment.EULER_STEPS:
        np.testing.assert_allclose(samples[str(n)], noise + 1, atol=1e-5)
        assert float(metrics[f"w2_at_{n}"]) == pytest.approx(0, abs=1e-5)
        assert float(metrics[f"sliced_w2_at_{n}"]) == pytest.approx(0, abs=1e-5)
        assert float(metrics[f"spread_at_{n}"]) == pytest.approx(1, abs=1e-5)


def test_straightness_of_a_field_that_speeds_up(monkeypatch):
    """For v = x the path is x0 e^t: its energy is (e^2 - 1) / 2 and the squared distance (e - 1)^2, times |x0|^2."""
    monkeypatch.setattr(experiment, "FINE_STEPS", 4000)
    noise = jax.random.normal(jax.random.key(1), (8, 2))
    metrics, samples = _measured(monkeypatch, lambda x, t: x, noise, noise)
    energy, distance = (math.e**2 - 1) / 2, (math.e - 1) ** 2
    square = float(jnp.mean(jnp.sum(noise**2, axis=1)))
    assert float(metrics["straightness"]) == pytest.approx((energy - distance) * square, rel=5e-3)
    assert float(metrics["path_energy_ratio"]) == pytest.approx(energy / distance, rel=1e-3)
    np.testing.assert_allclose(samples["2"], noise * 1.5**2, rtol=1e-5)


def test_distances_equal_scipy_and_pot():
    rng = np.random.default_rng(2)
    x, test = rng.normal(size=(15, 4)).astype(np.float32), rng.normal(1, 2, (15, 4)).astype(np.float32)
    directions = rng.normal(size=(4, 7)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    found = jax.jit(experiment.distances_to)(jnp.asarray(test), jnp.asarray(x), jnp.asarray(directions))
    cost = ((x[:, None] - test[None]) ** 2).sum(-1)
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    assert float(found["w2"]) == pytest.approx(cost[rows, columns].mean() ** 0.5, rel=1e-5)
    sliced = ot.sliced_wasserstein_distance(x, test, projections=directions)
    assert float(found["sliced_w2"]) == pytest.approx(sliced, rel=1e-5)
    assert float(found["spread"]) == pytest.approx(x.var(0).sum() / test.var(0).sum(), rel=1e-5)


def test_velocity_sees_place_and_time():
    params = experiment.init_mlp(jax.random.key(3), (2 + experiment.TIME_FEATURES, 16, 2))
    x = jnp.zeros((3, 2)).at[2].set(1)
    early, late, moved = experiment.velocity(params, x, jnp.array([0.1, 0.9, 0.1]))
    assert not np.allclose(early, late) and not np.allclose(early, moved)


def test_shrunken_samples_gain_in_exact_distance_but_not_in_sliced_distance():
    """Why both are reported: in many dimensions the mean is nearer to every image than another image is."""
    draws = jax.random.normal(jax.random.key(4), (2, 64, 64))
    distances, directions = jax.jit(experiment.distances_to), jnp.eye(64)
    fresh, shrunken = (distances(draws[0], scale * draws[1], directions) for scale in (1.0, 0.3))
    assert shrunken["w2"] < fresh["w2"]
    assert shrunken["sliced_w2"] > 2 * fresh["sliced_w2"]
