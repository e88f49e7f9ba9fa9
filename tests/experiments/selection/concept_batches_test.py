"""The long tail, the attributes and the recall by groups of classes, against loops and scikit-learn; a short run."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import recall_score

from experiments.datasets import arrays
from experiments.engine import folders
from experiments.selection import concept_batches
from experiments.selection.concept_batches import CLASSES, Config, attributes, grouped_recall, long_tailed


def digits(pool=0, validate=False):
    def split(name):
        data = arrays("digits", name)
        return {"image": data["image"].reshape(-1, 64).astype(np.float32) / 8 - 1, "label": data["label"]}

    return {"train": split("train"), "test": split("test")}


def test_classes_thin_out_in_geometric_progression_and_balanced_rows_repeat_them():
    images = digits()
    data = long_tailed(images["train"], images["test"], most=100, imbalance=50.0, seed=3)
    train, balanced, test = data["train"], data["balanced"], data["test"]
    assert np.bincount(train["rank"]).tolist() == [round(100 * 50 ** (-r / 9)) for r in range(10)]
    assert len({image.tobytes() for image in train["image"]}) == len(train["image"])
    assert np.bincount(balanced["rank"]).tolist() == [100] * 10
    assert {image.tobytes() for image in balanced["image"]} == {image.tobytes() for image in train["image"]}
    rank_of = dict(zip(train["label"].tolist(), train["rank"].tolist()))
    assert sorted(rank_of.values()) == list(range(10))
    for split in (balanced, test):
        assert [rank_of[label] for label in split["label"].tolist()] == split["rank"].tolist()
    np.testing.assert_array_equal(train["concepts"][:, 0], train["label"])
    other = long_tailed(images["train"], images["test"], most=100, imbalance=50.0, seed=4)
    assert other["train"]["rank"].tolist() != train["rank"].tolist()


def test_attributes_are_the_top_third_of_what_loops_measure():
    images = digits()["test"]["image"]
    values = np.zeros((len(images), 3))
    for n, image in enumerate(images.reshape(-1, 8, 8)):
        for y in range(8):
            for x in range(8):
                values[n, 0] += image[y, x]
                values[n, 1] -= abs(image[y, x] - image[y, 7 - x])
                values[n, 2] += image[y, x] if y < 4 else -image[y, x]
    found = attributes(images)
    for column in range(3):
        order = np.argsort(-values[:, column], kind="stable")
        present = found[:, column] == CLASSES + column
        assert (found[~present, column] == -1).all()
        assert 0.3 < present.mean() <= 0.34
        assert values[present, column].min() >= values[order[present.sum()], column] - 1e-4


def test_recall_by_groups_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    rank, predicted = rng.integers(0, 10, 300, np.int32), rng.integers(0, 10, 300, np.int32)
    found = grouped_recall(jnp.asarray(rank == predicted), jnp.asarray(rank))
    no_average: Any = None
    recalls = np.asarray(recall_score(rank, predicted, average=no_average))
    assert float(found["balanced_accuracy"]) == pytest.approx(recalls.mean(), rel=1e-5)
    assert float(found["head_accuracy"]) == pytest.approx(recalls[:3].mean(), rel=1e-5)
    assert float(found["tail_accuracy"]) == pytest.approx(recalls[-3:].mean(), rel=1e-5)


def test_arms_train_on_the_rows_that_their_names_say(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(concept_batches, "fashion", digits)
    config = dataclasses.replace(
        Config(),
        seeds=(0,),
        out=str(tmp_path / "out"),
        steps=100,
        evaluate_every=100,
        checkpoint_every=100,
        most=120,
        arms=("uniform", "class-balanced", "CABS-DM, labels"),
    )
    last = {r["arm"]: r["metrics"] for r in concept_batches.main(config)}
    shares = [sum(round(120 * 100 ** (-r / 9)) for r in ranks) for ranks in (range(7, 10), range(10))]
    assert last["uniform"]["tail_rows"] == pytest.approx(shares[0] / shares[1], abs=0.02)
    assert last["class-balanced"]["tail_rows"] == pytest.approx(0.3, abs=0.03)
    assert last["CABS-DM, labels"]["tail_rows"] > 2 * last["uniform"]["tail_rows"]
    assert last["CABS-DM, labels"]["tail_accuracy"] > last["uniform"]["tail_accuracy"]
