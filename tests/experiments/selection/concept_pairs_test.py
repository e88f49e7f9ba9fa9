"""Average precision against scikit-learn, and a short run on pairs made here."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from experiments.engine import folders
from experiments.selection import concept_pairs
from tests.experiments.selection.jest_race_test import made_pairs


def test_average_precision_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    similarities, positive = rng.normal(size=(6, 50)).astype(np.float32), rng.random((6, 50)) < 0.2
    positive[3] = False
    found = concept_pairs.average_precision(jnp.asarray(similarities), jnp.asarray(positive))
    expected = [average_precision_score(p, s) if p.any() else 0 for p, s in zip(positive, similarities)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_batches_hold_the_pairs_with_most_words(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(concept_pairs, "emoji_pairs", made_pairs)
    monkeypatch.setattr(concept_pairs, "TASK", (1,))
    config = dataclasses.replace(
        concept_pairs.Config(),
        seeds=(0,),
        out=str(tmp_path / "out"),
        arms=("CABS-FM, 1/2",),
        updates=20,
        keep=6,
        width=8,
        depth=1,
        dimensions=8,
    )
    (record,) = concept_pairs.main(config)
    mean = made_pairs()["train"]["words"].sum(1).mean()
    assert record["metrics"]["words_of_a_pair"] > mean + 1
    assert record["metrics"]["pairs_of_the_task"] == pytest.approx(0.25, abs=0.15)
