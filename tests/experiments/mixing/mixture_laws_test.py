"""The figures of the experiment by hand, and a tiny run on runs made here of known laws."""

import numpy as np
import pytest

from experiments.mixing import mixture_laws as experiment
from experiments.shared.mixture_runs import DOMAINS, VALIDATED, Runs


def made_runs(count, seed, drop=0.0):
    """Losses that fall with the own proportion by a power: BiMix is right, the others are not."""
    mixtures = np.random.default_rng(seed).dirichlet(np.full(17, 0.3), count).astype(np.float32)
    own = mixtures[:, [DOMAINS.index(domain) for domain in VALIDATED]]
    return Runs(mixtures, (np.linspace(2, 4, 13) * np.maximum(own, 1e-4) ** -0.05 - drop).astype(np.float32))


def test_figures_are_those_of_a_hand_count():
    predicted, losses = np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 4.0, 7.0, 8.0])
    found = experiment.figures(predicted, losses)
    assert found["rank"] == pytest.approx(1 - 6 * 2 / (4 * 15)) and found["error"] == 3.5
    assert found["regret"] == 1.0
    line = np.polynomial.Polynomial.fit(predicted, losses, 1)(predicted)
    assert found["mapped_error"] == pytest.approx(np.abs(line - losses).mean())
    nothing = experiment.figures(np.full(4, 6.0), losses)
    assert nothing == {"rank": 0.0, "error": 1.5, "mapped_error": 1.5, "regret": 2.0}


def test_subsets_hold_runs_once_with_their_own_losses():
    train = made_runs(50, 0)
    chosen = experiment.subset(train, 20, 3)
    places = [int(np.flatnonzero((train.mixtures == row).all(axis=1))[0]) for row in chosen.mixtures]
    assert len(set(places)) == 20
    np.testing.assert_array_equal(chosen.losses, train.losses[places])
    assert not np.array_equal(chosen.mixtures, experiment.subset(train, 20, 4).mixtures)


def test_every_arm_predicts_and_the_right_law_is_nearly_exact(tmp_path, monkeypatch):
    splits = {"train": made_runs(40, 0), "test_1m": made_runs(30, 1), "test_60m": made_runs(30, 1, 1.0)}
    monkeypatch.setattr(experiment, "mixture_runs", lambda name: splits.get(name, made_runs(9, 2, 2.0)))
    monkeypatch.setattr(experiment, "check_fetched", lambda name: None)
    monkeypatch.setattr(experiment.predictors, "MOST_RUNS", 40)
    arms = ("mean of the runs", "BiMix", "RegMix, linear", "RegMix, LightGBM", "Gaussian process")
    config = experiment.Config(seeds=(0, 1), out=str(tmp_path), arms=arms, targets=("mean",), runs=(24,))
    records = {(r["arm"], r["seed"]): r["metrics"] for r in experiment.main(config)}
    assert len(records) == 10
    for arm in arms[1:]:
        assert records[arm, 0]["rank_1m"] > 0.2 and records[arm, 0] != records[arm, 1]
        assert records["BiMix", 0]["error_1m"] <= records[arm, 0]["error_1m"]
    right = records["BiMix", 0]
    assert right["rank_1b"] > 0.99 and right["error_1m"] < 0.02 and right["error_60m"] == pytest.approx(1, abs=0.02)
    assert right["regret_1m"] == 0 and records["mean of the runs", 0]["rank_1m"] == 0
    assert (tmp_path / "mean" / "24_runs" / "table.md").exists()
