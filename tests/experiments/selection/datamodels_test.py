"""The problem, weighted training, and counterfactuals of the experiment on datamodels, on random images."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection import datamodels as experiment
from experiments.selection.datamodels import Config, Problem, Study

CONFIG = Config(rows=24, leaked=2, ordinary=4, asked=3, removed=4, dropped=6, steps=20, subsets=30, held_out=10)


def random_study():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    label = lambda n: jnp.asarray(rng.integers(0, 10, n), jnp.int32)  # noqa: E731
    x, y, test_x, test_y = draw(24, 5), label(24), draw(6, 5), label(6)
    x, y = x.at[:2].set(test_x[:2]), y.at[:2].set(test_y[:2])
    problem = Problem(x, y, np.arange(24) % 4 == 0, test_x, test_y, draw(30, 5), label(30))
    full = experiment.margins(CONFIG, problem, jnp.ones((1, 24)), 24)[0]
    masks = {f: jnp.asarray(rng.random((40, 24)) < f, jnp.float32) for f in experiment.FRACTIONS}
    outcomes = {f: experiment.margins(CONFIG, problem, m, 24) for f, m in masks.items()}
    return Study(problem, masks, outcomes, full, 0.5)


def test_training_on_a_subset_sees_its_rows_alone_and_falls_are_those_of_retraining():
    study = random_study()
    problem, mask = study.problem, study.masks[0.5][0]
    kept = np.flatnonzero(mask)
    cut = problem._replace(x=problem.x[kept], y=problem.y[kept])
    alone = experiment.margins(CONFIG, cut, jnp.ones((1, len(kept))), len(kept))
    np.testing.assert_allclose(study.outcomes[0.5][0], alone[0], rtol=1e-4, atol=1e-5)

    study = study._replace(margins=jnp.abs(study.margins))  # all are right before
    influence = np.random.default_rng(1).normal(size=(24, 6)).astype(np.float32)
    found = experiment.removals(CONFIG, study, experiment.as_models(jnp.asarray(influence)), False)
    falls = []
    for t in range(2, 5):
        rest = np.ones((1, 24), np.float32)
        rest[0, np.argsort(-influence[:, t])[:4]] = 0
        falls.append(study.margins[t] - experiment.margins(CONFIG, problem, jnp.asarray(rest), 24)[0, t])
    assert found["fall"] == pytest.approx(float(np.mean(falls)), abs=1e-4)
    assert found["flipped"] == pytest.approx(np.mean([study.margins[2 + i] < f for i, f in enumerate(falls)]))


def test_dropped_rows_are_those_of_the_least_influence():
    study = random_study()
    found = experiment.without_wrong(CONFIG, lambda seed: study, 0)
    assert found["wrong labels"] == 1
    total = jnp.asarray(np.where(study.problem.bad, 1.0, -1.0), jnp.float32)
    assert experiment.without(CONFIG, study, total)["wrong labels"] == 0
