"""The long tail, the scores of class groups, and the layer that sees one example at a time."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.engine import folders
from experiments.modules import _batch_former, batch_former
from experiments.modules.batch_former import Config


def splits(per_class=40, pixels=196):
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(10, dtype=np.int64), per_class)
    image = rng.normal(size=(len(label), pixels)).astype(np.float32) + label[:, None].astype(np.float32)
    return {"train": {"image": image, "label": label}, "test": {"image": image[::4], "label": label[::4]}}


def test_classes_thin_out_in_geometric_progression_and_the_seed_orders_them():
    config = Config(most=40, imbalance=10.0)
    data = batch_former.long_tailed(splits(), config, 3)
    counts = np.bincount(data["train"]["label"])
    by_rank = counts[np.argsort(data["rank"])]
    assert by_rank[0] == 40 and by_rank[-1] == 4
    ratios = np.log(by_rank[:-1] / by_rank[1:])
    np.testing.assert_allclose(ratios, np.log(10) / 9, atol=0.15)
    np.testing.assert_allclose(np.exp(data["train"]["log_prior"][0]), counts / counts.sum(), rtol=1e-5)
    assert (batch_former.long_tailed(splits(), config, 4)["rank"] != data["rank"]).any()


def test_group_accuracies_are_means_over_classes():
    rng = np.random.default_rng(1)
    labels, rank = np.repeat(np.arange(10), np.arange(1, 11)), rng.permutation(10)
    logits = rng.normal(size=(len(labels), 10)).astype(np.float32) + 2 * np.eye(10, dtype=np.float32)[labels]
    found = batch_former.group_accuracies(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(rank))
    recall = {rank[c]: np.mean(logits.argmax(1)[labels == c] == c) for c in range(10)}
    for name, ranks in {
        "balanced_accuracy": range(10),
        "many": (0, 1, 2),
        "medium": range(3, 7),
        "few": (7, 8, 9),
    }.items():
        assert float(found[name]) == pytest.approx(np.mean([recall[r] for r in ranks]), abs=1e-6)


def test_alone_is_the_layer_on_batches_of_one():
    module = _batch_former.Layer(8, 2, 0.0).new(jax.random.key(0))
    x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    encode, alone = nnx.jit(lambda m, x: m.encode(x)), nnx.jit(_batch_former.alone)
    one_by_one = np.concatenate([encode(module, row[None]) for row in x])
    np.testing.assert_allclose(alone(module, x), one_by_one, rtol=1e-4, atol=1e-5)
    assert not np.allclose(encode(module, x), one_by_one, atol=1e-3)


def test_a_prediction_is_that_of_the_plain_network_and_costs_the_same():
    config = Config(features=8, heads=2, hidden=16)
    arms = {name: batch_former.arm(config, method, 1e-3) for name, method in batch_former.METHODS.items()}
    model = arms["cross-entropy, BatchFormer"].init(jax.random.key(0)).params
    images = jax.random.normal(jax.random.key(1), (5, 196))
    plain = batch_former.predict(config, model._replace(former=()), images)
    np.testing.assert_array_equal(batch_former.predict(config, model, images), plain)
    two = {name: arms[name] for name in ("cross-entropy", "cross-entropy, BatchFormer")}
    (_, step, prediction), (_, step_with, prediction_with) = batch_former.costs(config, two)[1:]
    assert prediction == prediction_with and float(step) < float(step_with)


def test_the_experiment_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(batch_former, "fashion", lambda *args: splits())
    monkeypatch.setattr(batch_former, "costs", lambda *args: [["arm"]])
    small: dict[str, Any] = {"steps": 50, "batch_size": 8, "evaluate_every": 50, "checkpoint_every": 50}
    config = Config(seeds=(0, 1), out=str(tmp_path), hidden=16, features=8, heads=2, most=40, imbalance=10.0, **small)
    config = dataclasses.replace(config, arms=("balanced softmax", "balanced softmax, BatchFormer"))
    records = batch_former.main(config)
    rows = (tmp_path / "gains.md").read_text().splitlines()
    last = {(r["arm"], r["seed"]): r["metrics"]["few"] for r in records}
    gain = np.mean([last[config.arms[1], s] - last[config.arms[0], s] for s in (0, 1)]) * 100
    assert len(rows) == 3 and f"{gain:+.1f} ±" in rows[2].split("|")[-2]
