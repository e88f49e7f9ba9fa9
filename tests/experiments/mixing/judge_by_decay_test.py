"""Agreement by hand, and that each way to judge trains as many steps as it says."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.engine import folders
from experiments.mixing import judge_by_decay
from experiments.mixing.judge_by_decay import Config, agreement
from experiments.shared import byte_runs


def test_agreement_leaves_out_the_target_itself():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(12, 12))
    judged = true + rng.normal(size=(12, 12))
    others = [np.delete(np.stack([judged[:, t], true[:, t]]), t, axis=1) for t in range(12)]
    found = agreement(judged, true)
    assert found["rank_correlation"] == pytest.approx(np.mean([stats.spearmanr(*pair)[0] for pair in others]))
    regret = np.mean([pair[1][pair[0].argmin()] - pair[1].min() for pair in others])
    assert found["regret"] == pytest.approx(regret) and regret > 0
    np.fill_diagonal(judged, -9.0)  # a candidate is best for itself, which says nothing
    assert agreement(judged, true) == found
    assert agreement(true, true)["regret"] == 0


def test_the_experiment_runs_and_counts_its_steps(tmp_path, monkeypatch):
    seen, transfer = [], jnp.asarray(np.random.default_rng(1).uniform(size=(12, 12)))

    def train(run, tokens, mixtures, rates):
        np.testing.assert_allclose(mixtures.sum(axis=1), 1, rtol=1e-5)
        seen.append((len(rates), float(rates[-1])))
        return run._replace(params=run.params + jnp.sum(mixtures, axis=0))

    def held_out_losses(params, tokens):
        return 1 / (params @ transfer)

    tokens, domain = np.zeros((24, 32), np.uint8), np.repeat(np.arange(12, dtype=np.int32), 2)
    splits = {"train": {"tokens": tokens, "domain": domain}, "validation": {"tokens": tokens, "domain": domain}}
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(judge_by_decay, "text_domains", lambda *args, **options: splits)
    monkeypatch.setattr(byte_runs, "start_run", lambda seed, *args: byte_runs.Run(jnp.ones(12) * (1 + seed), (), ()))
    monkeypatch.setattr(byte_runs, "train", train)
    monkeypatch.setattr(byte_runs, "held_out_losses", held_out_losses)
    config = Config(seeds=(0, 1), out=str(tmp_path), steps=50, decay_steps=5, warmup=5)
    records = {r["arm"]: r["metrics"] for r in judge_by_decay.main(config) if r["seed"] == 0}
    full = [s for s in seen if s[0] == 50]
    assert len(full) == 24 and all(rate == 0 for _, rate in full)
    assert [s for s in seen if s[0] == 45] == [(45, pytest.approx(8e-3))] * 2
    assert [rate > 0 for steps, rate in seen if steps == 5] == ([False] * 12 + [True] * 12) * 2
    assert records["full runs"]["steps"] == 600 and records["decays of one run"]["steps"] == 45 + 60
    assert sum(steps for steps, _ in seen if steps == 8) == 2 * records["short runs"]["steps"]
