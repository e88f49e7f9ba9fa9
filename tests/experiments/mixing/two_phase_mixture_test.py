"""Exposure of the good domains in each arm by a sum over the steps, and what main hands to the runs."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import folders
from experiments.mixing import two_phase_mixture
from experiments.mixing.two_phase_mixture import IS_GOOD, Config, mixtures, scarce_pool
from experiments.shared import byte_runs


def windows(counts):
    domain = np.repeat(np.arange(12, dtype=np.int32), counts)
    return {"tokens": np.arange(domain.size * 2).reshape(-1, 2).astype(np.uint8), "domain": domain}


def test_the_pool_has_few_windows_of_good_domains_and_the_others_in_proportion():
    counts = np.array([20_000, 900, 4000, 700, 700, 3000, 20_000, 9000, 5000, 1000, 2000, 12_000])
    kept = np.bincount(scarce_pool(windows(counts))["domain"])
    assert np.all(kept[IS_GOOD] == 640)
    others = counts[~IS_GOOD] / counts[~IS_GOOD].sum()
    np.testing.assert_allclose(kept[~IS_GOOD], 17_280 * others, atol=0.5)


def test_all_arms_but_the_natural_one_see_the_good_domains_equally_often(tmp_path, monkeypatch):
    sizes = np.where(IS_GOOD, 64, 192)
    splits = {"train": windows(sizes), "validation": windows(np.full(12, 2))}
    seen = {}

    def train(run, tokens, table, rates):
        seen.setdefault("tables", []).append(np.asarray(table))
        seen.setdefault("rates", []).append(np.asarray(rates))
        return run

    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(two_phase_mixture, "text_domains", lambda *args, **options: splits)
    monkeypatch.setattr(two_phase_mixture, "scarce_pool", lambda train: train)
    monkeypatch.setattr(byte_runs.Run, "epochs", lambda run: jnp.zeros(12))
    monkeypatch.setattr(byte_runs, "start_run", lambda seed, *args: byte_runs.Run(jnp.ones(12), (), ()))
    monkeypatch.setattr(byte_runs, "train", train)
    monkeypatch.setattr(byte_runs, "held_out_losses", lambda params, tokens: params)
    config = Config(seeds=(0, 1), out=str(tmp_path), steps=60, warmup=3)
    two_phase_mixture.main(config)
    names = list(mixtures(config, jnp.asarray(sizes, jnp.float32)))
    for name, table in zip(names, seen["tables"]):
        np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
        epochs = 32 * table.sum(axis=0) / sizes
        good = 2.0 if name != "natural" else 60 * 32 / sizes.sum()
        np.testing.assert_allclose(epochs[IS_GOOD], good, rtol=0.02)
        share = table[:, IS_GOOD].sum(axis=1)
        first, last = share[:36].sum(), share[36:].sum()
        assert {"two phases": first == 0, "two phases, reversed": last == 0}.get(name, first >= 0)
    assert all(np.array_equal(rates, seen["rates"][0]) and rates[-1] == 0 for rates in seen["rates"])


def test_a_run_too_short_for_its_exposure_is_refused():
    with pytest.raises(ValueError, match="second has a negative"):
        mixtures(Config(steps=100), jnp.full(12, 640.0))
