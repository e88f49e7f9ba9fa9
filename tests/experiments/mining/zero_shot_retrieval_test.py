"""The losses learn, the tuning finds the best of its grid, and the comparison agrees with scipy."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from experiments.engine import folders
from experiments.mining import _retrieval_report, zero_shot_retrieval
from experiments.mining._retrieval_losses import METHODS, Vectors, gradient
from experiments.mining.zero_shot_retrieval import Config, Setting


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_pulls_classes_together(name):
    """Along minus the gradient, the cosine of positives grows by more than that of negatives."""
    rng, method = np.random.default_rng(0), METHODS[name]
    labels = jnp.repeat(jnp.arange(4), 4)
    centers = rng.normal(size=(4, 6))
    vectors = jnp.asarray(np.repeat(centers, 4, 0) + rng.normal(size=(16, 6)), jnp.float32)
    proxies = jnp.asarray(centers, jnp.float32) if method.proxies else None

    def unit(x):
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    def contrast(x):
        s, same = unit(x) @ unit(x).T, labels[:, None] == labels[None]
        return jnp.sum(s, where=same & ~jnp.eye(16, dtype=bool)) / 48 - jnp.sum(s, where=~same) / 192

    def gradient_of(x):
        value = int(method.values[1]) if method.static else jnp.float32(method.values[1])
        return gradient(method, value, lambda x, batch: Vectors(unit(x), proxies), x, (), labels, jax.random.key(0))

    slope = jax.jit(lambda x: jax.jvp(contrast, (x,), (-gradient_of(x),))[1])(vectors)
    assert float(slope) > 0


def test_p_values_are_those_of_scipy_and_holm_steps_down():
    gaps = [0.03, 0.01, 0.02, -0.005, 0.012]
    assert _retrieval_report.p_value(gaps) == pytest.approx(scipy.stats.ttest_1samp(gaps, 0)[1], rel=1e-4)
    assert _retrieval_report.holm({"a": 0.001, "b": 0.024, "c": 0.03}, 0.05) == {"a", "b", "c"}
    assert _retrieval_report.holm({"a": 0.001, "b": 0.026, "c": 0.03}, 0.05) == {"a"}


def test_scores_of_known_neighbors():
    points = jnp.asarray([[0.0, 0.1, 0.25], [1.0, 1.1, 0.26]])
    vectors = jnp.stack([jnp.cos(points), jnp.sin(points)], axis=-1)
    found = zero_shot_retrieval.scores(vectors)
    angles, labels = np.ravel(points), np.repeat([0, 1], 3)
    hits = []
    for i in range(6):
        order = [j for j in np.argsort(np.abs(angles - angles[i])) if j != i]
        hits.append((labels[order[:2]] == labels[i]).astype(int))
    assert found["recall_at_1"] == pytest.approx(np.mean([h[0] for h in hits]))
    assert found["r_precision"] == pytest.approx(np.mean(hits))
    assert found["map_at_r"] == pytest.approx(np.mean([(h[0] + h[1] * (h[0] + h[1]) / 2) / 2 for h in hits]))


def test_tuning_and_experiment_run(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(14, 1, 10)) + 0.5 * rng.normal(size=(14, 4, 10))).astype(np.float32)
    splits = {"train": {"image": rows[:10]}, "test": {"image": rows[10:]}}
    names = ("contrastive", "CosFace")
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(zero_shot_retrieval, "emoji_rows", splits.__getitem__)
    monkeypatch.setattr(zero_shot_retrieval, "METHODS", {n: METHODS[n] for n in names})
    monkeypatch.setattr(zero_shot_retrieval, "BEST", names[0])
    config = Config(seeds=(0, 1), out=str(tmp_path), steps=3, classes=4, hidden=8, dimensions=4, tune=True)
    records = zero_shot_retrieval.main(config)
    tuned = json.loads((tmp_path / "tuning.json").read_text())
    for name in names:
        grid = {r["arm"]: [] for r in records if r["arm"].startswith(name)}
        for record in records:
            if record["arm"] in grid:
                grid[record["arm"]].append(record["metrics"]["map_at_r"])
        assert len(grid) == 6
        best = zero_shot_retrieval.label(name, Setting(**tuned[name]))
        assert np.mean(grid[best]) == max(np.mean(v) for v in grid.values())
    monkeypatch.setattr(zero_shot_retrieval, "TUNED", {n: Setting(**s) for n, s in tuned.items()})
    records = zero_shot_retrieval.main(dataclasses.replace(config, tune=False))
    assert {r["arm"] for r in records} == {*names, "untrained network", "pixels"}
    assert (tmp_path / "differences.md").exists() and (tmp_path / "map_at_r.png").exists()
