"""The draw of the experiment and its choices on planted kinds of text."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.selection import _shifted_texts as shifted
from experiments.selection import nearest_sources as experiment
from tests.experiments.selection.transport_data_selection_test import texts

CONFIG = experiment.Config(seeds=(0,), pool=200, queries=5, test=20, budgets=(16,), steps=20)


@pytest.fixture
def small(monkeypatch):
    splits = {"train": texts(1200, 0), "test": texts(400, 1)}
    monkeypatch.setattr(shifted, "arrays", lambda name, split: splits[split])
    monkeypatch.setattr(shifted, "DIMENSIONS", 30)
    monkeypatch.setitem(shifted.DOMAINS, "newsgroups", (0, 1, 2, 3))


def test_the_shares_are_those_asked_for_and_turns_even_them_out(small):
    problem = experiment.make_problem(CONFIG, 3)
    assert np.bincount(problem.pool.kind).tolist() == [128, 48, 18, 6]
    assert np.bincount(problem.queries.kind).tolist() == [5] * 4 and np.bincount(problem.test.kind).tolist() == [20] * 4
    counts = {name: np.bincount(problem.pool.kind[c(problem, 16, 0)], minlength=4) for name, c in chosen()}
    assert counts["kinds in turn"].tolist() == [4] * 4 == counts["equal kinds (known)"].tolist()
    assert counts["random"][0] > 6 and all(sum(c) == 16 for c in counts.values())
    distances = np.linalg.norm(unit(problem.pool)[:, None] - unit(problem.queries)[None], axis=2)
    nearest = np.argsort(distances.min(1), kind="stable")[:16]
    assert set(experiment.nearest_of_all(problem, 16, 0)) == set(nearest)


def chosen():
    return experiment.CHOICES.items()


def unit(rows):
    return rows.features / np.linalg.norm(rows.features, axis=1, keepdims=True)


def test_a_tiny_run_leaves_a_table(small, tmp_path):
    records = experiment.main(replace(CONFIG, out=str(tmp_path), arms=("random", "kinds in turn")))
    rare = {r["arm"]: r["metrics"]["rare"] for r in records}
    assert rare["kinds in turn"] == 0.5 > rare["random"]
