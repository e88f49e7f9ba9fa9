"""Potentials and pairs of the experiment against scipy's linear program and plain counting."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.coupling import semidiscrete_flow as experiment
from experiments.shared import step_costs


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(experiment, "PIXELS", 2)
    monkeypatch.setattr(experiment, "NUM_NOISES", 2000)
    config = experiment.Config(potential_steps=400, potential_batch=32, potential_rate=0.05, batch_size=8)
    train = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)) + np.array([2.0, 0.0]), jnp.float32)
    return config, train


def test_learned_potentials_use_all_images_alike(small):
    config, train = small
    learned = jax.jit(lambda key: experiment.learn(config, train, 0.0, key))(jax.random.key(0))
    noise = np.asarray(jax.random.normal(jax.random.key(5), (4000, 2)))
    cost = ((noise[:, None] - np.asarray(train)[None]) ** 2).sum(-1)

    def uneven(potentials):
        share = np.bincount(np.argmax(np.asarray(potentials)[None] - cost, axis=1), minlength=6) / 4000
        return np.mean((6 * share - 1) ** 2)

    assert uneven(learned) < 0.05 * uneven(np.zeros(6))
    for potentials in (jnp.zeros(6), learned):
        found = float(experiment.unevenness(train, potentials, 0.0))
        assert found == pytest.approx(uneven(potentials), rel=0.15, abs=0.01)


def test_pairs_come_from_the_whole_data_set_or_from_the_batch(small):
    config, train = small
    methods = experiment.methods(config, train)
    noise = jax.random.normal(jax.random.key(1), (8, 2))
    image = jnp.concatenate([train, train[:2]])
    potentials = jnp.arange(6.0)
    hard = methods["semi-discrete"].pair(jax.random.key(2), noise, image, potentials)
    cost = ((np.asarray(noise)[:, None] - np.asarray(train)[None]) ** 2).sum(-1)
    np.testing.assert_array_equal(hard.target, np.argmax(np.arange(6) - cost, axis=1))
    np.testing.assert_array_equal(hard.x1, np.asarray(train)[np.asarray(hard.target)])
    plain = methods["independent"].pair(jax.random.key(2), noise, image, ())
    np.testing.assert_array_equal(plain.x1, image)
    for pairs in (hard, plain):
        np.testing.assert_allclose(pairs.weights, 1 / 8, rtol=1e-5)


@pytest.mark.slow
def test_a_tiny_run_leaves_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(step_costs, "STEPS", 1)
    monkeypatch.setattr(step_costs, "REPEATS", 1)
    monkeypatch.setattr(experiment, "NUM_NOISES", 1000)
    config = experiment.Config(seeds=(0,), out=str(tmp_path), potential_steps=2, batch_size=8, hidden=8)
    config = dataclasses.replace(config, steps=100, evaluate_every=100, checkpoint_every=100)
    records = experiment.main(config)
    assert [r["arm"] for r in records if r["step"] == 100] == list(experiment.methods(config, jnp.zeros((6, 64))))
    assert "unevenness" in (tmp_path / "potentials.md").read_text()
