"""Gradients of the losses against scipy and by hand, and a flow that must arrive."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from experiments.coupling import _transport_losses as losses
from experiments.coupling import transport_gradient_flow as experiment

K, M = 2, 3
X, Y = np.random.default_rng(0).normal(size=(2, K * M, 2)).astype(np.float32)


def gradient(name, x, y):
    found = jax.jit(losses.methods(lambda x, rows: x[rows], K, (0.8,), (0.5,), 16)[name])
    return np.asarray(found(jnp.asarray(x), jnp.arange(len(x)), jnp.asarray(y), jax.random.key(0)))


def partners(x, y):
    return scipy.optimize.linear_sum_assignment(((x[:, None] - y[None]) ** 2).sum(-1))[1]


def test_each_particle_is_pulled_to_its_partners():
    joined = 2 * (X - Y[partners(X, Y)]) / len(X)
    np.testing.assert_allclose(gradient("OT of k m items", X, Y), joined, atol=1e-5)
    expected = np.zeros_like(X)
    for u in np.arange(K * M).reshape(K, M):
        for v in np.arange(K * M).reshape(K, M):
            expected[u] += 2 * (X[u] - Y[v][partners(X[u], Y[v])]) / (K * K * M)
    np.testing.assert_allclose(gradient("m-OT", X, Y), expected, atol=1e-5)


def test_at_the_target_only_the_entropic_cost_still_pulls():
    """It pulls inward, which shrinks the particles; the others leave them where they are."""
    for name in ("Sinkhorn divergence, 0.5", "sliced"):
        np.testing.assert_allclose(gradient(name, X, X), 0, atol=1e-4)
    pull = gradient("entropic cost, 0.5", X, X)
    assert np.sum(pull * (X - X.mean(0))) > 0.1


def test_the_flow_of_all_items_arrives(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "print_step_costs", lambda *args: None)
    config = experiment.Config(
        seeds=(0,), out=str(tmp_path), arms=("OT of k m items",), steps=50, batch_size=8, particles=8
    )
    config = dataclasses.replace(config, mini_batches=1, evaluate_every=50, checkpoint_every=50)
    (record,) = experiment.main(config)
    assert record["metrics"]["w2_moons"] < 1e-3 and record["metrics"]["w2_clusters"] < 1e-3
    assert record["metrics"]["spread_moons"] == pytest.approx(1, abs=1e-3)
    assert (tmp_path / "particles.png").exists()
