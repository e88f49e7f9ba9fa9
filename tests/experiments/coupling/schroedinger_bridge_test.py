"""The closed form of the bridge against a discretized problem, and the measures against a model that is exact."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from experiments.coupling import _gaussian_bridge
from experiments.coupling import schroedinger_bridge as experiment
from experiments.shared import step_costs


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_the_closed_form_is_that_of_a_discretized_problem(sigma):
    x = np.linspace(-5, 5, 201)
    a, b = (np.exp(-(x**2) / 2 / variance) for variance in (1.0, 0.25))
    a, b = a / a.sum(), b / b.sum()
    plan = ot.sinkhorn(a, b, (x[:, None] - x[None]) ** 2, 2 * sigma**2, stopThr=1e-10)
    bridge = _gaussian_bridge.Bridge(np.eye(1), 0.25 * np.eye(1), np.zeros(1), sigma)
    assert bridge.cross_covariance()[0, 0] == pytest.approx((plan * np.outer(x, x)).sum(), abs=1e-4)
    place = 0.7 * x[:, None] + 0.3 * x[None]
    expected = (plan * place**2).sum() + sigma**2 * 0.21
    assert bridge.covariance(0.3)[0, 0] == pytest.approx(expected, abs=1e-3)


def test_the_distance_of_normal_laws_is_known_where_they_commute():
    found = _gaussian_bridge.bures(np.array([1.0, 0]), np.diag([4.0, 1.0]), np.zeros(2), np.diag([1.0, 9.0]))
    assert found == pytest.approx((1 + 1 + 4) ** 0.5)


def test_an_exact_model_has_no_error(monkeypatch):
    """The bridge of independent coordinates: place and ends are jointly normal, so both targets are linear."""
    config = experiment.Config()
    bridge = experiment.bridge_of(config)
    diagonals = bridge.cross_covariance(), bridge.start, bridge.end
    cross, start, end = (jnp.asarray(np.diag(x), jnp.float32)[None] for x in diagonals)
    mean = jnp.asarray(experiment.MEAN, jnp.float32)[None]

    def model(params, x, t):
        t = t[:, None]
        noise = t * (1 - t) * config.sigma**2
        variance = (1 - t) ** 2 * start + t**2 * end + 2 * t * (1 - t) * cross + noise
        away = x - t * mean
        slope = ((1 - t) * (cross - start) + t * (end - cross) + (1 - 2 * t) / 2 * config.sigma**2) / variance
        z = jnp.sqrt(noise) / variance * away
        return jnp.concatenate([mean + slope * away, z], axis=1)

    monkeypatch.setattr(experiment, "velocity", model)
    x0 = jax.random.normal(jax.random.key(0), (4000, 2))
    state = type("State", (), {"params": ()})()
    ends = jax.jit(lambda x0: experiment.normal_ends(config, state, {"test": {"x0": x0}}))(x0)
    found = experiment.measure_normals(config, ends)
    assert max(found["law"], found["end"]) < 0.1 and found["pairs"] < 0.15
    # the flow keeps the order of the noise, so its pairs are more alike than those of the bridge
    assert found["flow_pairs"] > 0.3


@pytest.mark.slow
def test_a_tiny_run_leaves_tables(tmp_path, monkeypatch):
    for name, value in (("NUM_TRAIN", 200), ("NUM_TEST", 40), ("NUM_PAIRS", 64)):
        monkeypatch.setattr(experiment, name, value)
    monkeypatch.setattr(step_costs, "STEPS", 1)
    monkeypatch.setattr(step_costs, "REPEATS", 1)
    config = experiment.Config(seeds=(0,), out=str(tmp_path), pair_batches=(8,), hidden=8, batch_size=8)
    config = dataclasses.replace(config, steps=100, evaluate_every=100, checkpoint_every=100)
    records = experiment.main(config)
    assert len([r for r in records if r["step"] == 100]) == 3 + 4
    assert all((tmp_path / part / "table.md").exists() for part in ("pairs", "normals", "moons"))
