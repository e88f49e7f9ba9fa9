"""Which places share a batch, and which pairs count as informative."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.mining import place_mining
from experiments.mining.place_mining import METHODS, Config


def test_informative_pairs_are_those_that_a_pair_of_the_other_kind_contradicts():
    embeddings = jax.random.normal(jax.random.key(0), (12, 3))
    labels = jnp.repeat(jnp.arange(3), 4)
    unit = np.asarray(embeddings) / np.linalg.norm(embeddings, axis=1, keepdims=True)
    s, same = unit @ unit.T, np.asarray(labels)[:, None] == np.asarray(labels)[None]
    kept = np.zeros((2, 12, 12), bool)
    for i in range(12):
        lowest = min(s[i, j] for j in range(12) if same[i, j] and j != i)
        highest = max(s[i, j] for j in range(12) if not same[i, j])
        for j in set(range(12)) - {i}:
            kept[0, i, j] = same[i, j] and s[i, j] - 0.1 < highest
            kept[1, i, j] = not same[i, j] and s[i, j] + 0.1 > lowest
    layers = [(jnp.eye(3), jnp.zeros(3))]
    _, counts, proxy = place_mining.gradient({"layers": layers}, embeddings, labels)
    assert proxy is None
    assert [float(c) for c in counts] == [12 * 11, kept.sum(), 12 * 8, kept[1].sum()]
    assert 0 < kept.sum() < 12 * 11


@pytest.mark.parametrize("name", METHODS)
def test_an_epoch_takes_every_place_once_and_only_mined_ones_are_alike(name):
    districts = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 8))
    embeddings = jax.nn.one_hot(jnp.asarray(districts), 4) + 0.01 * jax.random.normal(jax.random.key(1), (32, 4))
    sampler = place_mining.sampler_of(Config(proxy_dimensions=4), METHODS[name], 8, 32)

    def step(places, _):
        rows, places = sampler.sample(places)
        return sampler.update(places, rows, embeddings=embeddings[rows.indices // 4]), rows.indices

    places = sampler.init(0, labels=jnp.repeat(jnp.arange(32), 4))
    rows = np.asarray(jax.jit(lambda places: jax.lax.scan(step, places, length=8))(places)[1]).reshape(2, 4, 32)
    for epoch in rows:
        np.testing.assert_array_equal(np.sort(epoch, axis=None), np.arange(128))
    alike = np.mean([len(set(districts[row // 4])) == 1 for row in rows[1]])
    assert alike == 1 if np.isfinite(METHODS[name].temperature) else alike < 1


def test_the_experiment_runs_and_batches_get_harder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    place = np.repeat(rng.normal(size=(6, 1, 20)), 6, 0) + 0.3 * rng.normal(size=(36, 1, 20))
    images = (place + 0.1 * rng.normal(size=(36, 4, 20))).astype(np.float32)
    rows = {"train": {"image": images[:30]}, "test": {"image": images[30:]}}
    monkeypatch.setattr(place_mining, "rows_of_one_class", lambda *args: rows)
    names = ("uniform, proxy head, 6 places", "GPM, 6 places")
    options: dict[str, Any] = {"places": (6,), "epochs": 4, "evaluate_every": 1, "hidden": 16, "learning_rate": 1e-3}
    records = place_mining.main(Config(seeds=(0,), out=str(tmp_path), arms=names, **options))
    share = {(r["arm"], r["step"]): r["metrics"]["informative_negatives"] for r in records}
    assert share[names[1], 1] == pytest.approx(share[names[0], 1], abs=0.15)  # random at first
    assert share[names[1], 2] > share[names[0], 2] + 0.1
    assert (tmp_path / "table.md").exists()
