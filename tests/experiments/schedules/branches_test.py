"""Each arm sees the learning rate of its schedule at every step, though arms share the stable part of a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import folders
from experiments.schedules import _byte_branches, decay_shapes, power_horizons
from experiments.shared import byte_runs
from minibatch_jax.schedules import decay_from, warmup_stable_decay


@pytest.fixture
def rates(monkeypatch):
    """The rates of each run that is evaluated, in order."""
    seen = []

    def train(run, tokens, mixtures, rates, size):
        np.testing.assert_allclose(mixtures.sum(axis=1), 1, rtol=1e-5)
        return run._replace(params=np.concatenate([run.params, np.asarray(rates)]))

    def held_out_losses(params, tokens, size):
        seen.append(params)
        return jnp.ones(12)

    tokens, domain = np.zeros((24, 32), np.uint8), np.repeat(np.arange(12, dtype=np.int32), 2)
    splits = {"train": {"tokens": tokens, "domain": domain}, "validation": {"tokens": tokens, "domain": domain}}
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(_byte_branches, "text_domains", lambda *args, **options: splits)
    monkeypatch.setattr(byte_runs, "start_run", lambda seed, *args: byte_runs.Run(np.zeros(0, np.float32), (), ()))
    monkeypatch.setattr(byte_runs, "train", train)
    monkeypatch.setattr(byte_runs, "held_out_losses", held_out_losses)
    return seen


def test_decays_of_all_lengths_branch_off_one_stable_run(rates, tmp_path):
    config = decay_shapes.Config(seeds=(0, 1), out=str(tmp_path), steps=80, warmup=4, chunk=2, learning_rate=0.5)
    decay_shapes.main(config)
    assert len(rates) == 2 * len(decay_shapes.DECAYS)
    for (name, decay), found in zip(decay_shapes.DECAYS.items(), rates):
        assert len(found) == 80
        np.testing.assert_allclose(found[:5], [0, 0.125, 0.25, 0.375, 0.5], rtol=1e-6)
        length = {"constant": 0, "cosine": 76}.get(name, round(80 * decay.fraction))
        np.testing.assert_array_equal(found[5 : 80 - length], np.float32(0.5))
        last = {"constant": 0.5, "exponential, 10 %": 0.01}.get(name, 0.0)
        assert found[-1] == pytest.approx(last) and np.all(np.diff(found[80 - length :]) < 0)


def test_both_horizons_decay_from_their_stable_part(rates, tmp_path):
    config = power_horizons.Config(
        seeds=(0, 1), out=str(tmp_path), short=40, long=160, warmup=4, chunk=4, kind="power", factors=(0.1,)
    )
    power_horizons.main(config)
    power = np.concatenate([[32], 32 * np.arange(1, 160)]) * 32.0
    expected = np.minimum(0.032, 32 * 0.1 * power**-0.51)
    expected[:4] = expected[4] * np.arange(4) / 4
    for found, steps in zip(rates, (40, 160)):
        start = steps - steps // 10
        np.testing.assert_allclose(found[:start], expected[:start], rtol=1e-5)
        assert len(found) == steps and found[-1] == 0
        assert found[start] == pytest.approx(expected[start], rel=1e-5)


def test_a_part_that_is_no_multiple_of_a_chunk_is_named(rates):
    stable = warmup_stable_decay(0.1, 2, 0, 0)
    branches = _byte_branches.Branches(lambda rate: stable, [6], chunk=4, validate=False)
    with pytest.raises(ValueError, match="a part of a run has 6 steps, wanted a multiple of 4"):
        branches.losses(0, 0.1, decay_from(stable, 6, 2), 6, 8)


def test_a_run_that_goes_on_is_the_run_that_never_stopped():
    size = byte_runs.Size(width=8, depth=1, batch_size=4)
    domain = jnp.repeat(jnp.arange(2, dtype=jnp.int32), jnp.array([6, 10]))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (16, 32)), jnp.uint8)
    table = jnp.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.0, 1.0]])
    rates = jnp.array([0.01, 0.02, 0.03, 0.04])
    with jax.numpy_rank_promotion("allow"):
        start = byte_runs.start_run(3, domain, 2, size)
        whole = byte_runs.train(start, tokens, table, rates, size)
        half = byte_runs.train(start, tokens, table[:2], rates[:2], size)
        parts = byte_runs.train(half, tokens, table[2:], rates[2:], size)
    for one, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole.epochs(), [7 / 6, 9 / 10], rtol=1e-6)
    np.testing.assert_array_equal(whole.epochs(), parts.epochs())
