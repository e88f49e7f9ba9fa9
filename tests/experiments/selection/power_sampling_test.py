"""The weighted fit and the arms of the experiment against scikit-learn and counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from experiments.selection import power_sampling as experiment
from experiments.selection.power_sampling import Rows


@pytest.fixture
def digits(monkeypatch):
    """The digits of scikit-learn in place of the larger sets, with sizes to match."""
    from experiments.datasets import arrays

    monkeypatch.setattr(experiment, "arrays", lambda name, split: arrays("digits", split))
    for name, size in {"POOL": 600, "WEAK": 60, "VALIDATION": 200, "DIMENSIONS": 10, "RIDGES": (1e-3, 1e-1)}.items():
        monkeypatch.setattr(experiment, name, size)


def random_rows(size, seed):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(size, 4))
    label = rng.random(size) < 1 / (1 + np.exp(-inputs @ [2.0, -1, 0, 0.5]))
    return Rows(jnp.asarray(inputs, jnp.float32), jnp.asarray(label, jnp.float32))


def test_the_fit_is_that_of_scikit_learn():
    rows, rng = random_rows(300, 0), np.random.default_rng(1)
    weights = rng.uniform(size=300) * (rng.random(300) < 0.5)
    found = experiment.fit(rows, jnp.asarray(weights, jnp.float32) / 300, 1e-2)
    peer = LogisticRegression(C=1 / (1e-2 * 300), fit_intercept=False, tol=1e-8, max_iter=1000)
    peer.fit(np.asarray(rows.inputs), np.asarray(rows.label), sample_weight=weights)
    np.testing.assert_allclose(found, peer.coef_[0], rtol=2e-3, atol=1e-4)


def test_the_ridge_is_the_best_on_the_validation_rows(monkeypatch):
    monkeypatch.setattr(experiment, "RIDGES", (1e-2, 1.0, 100.0))
    rows, validation = random_rows(60, 2), random_rows(500, 3)
    kept = jnp.asarray(np.arange(60) % 2, jnp.float32)
    best = experiment.fit_best(rows, kept, 60, validation)
    fits = [experiment.fit(rows, kept / 60, ridge) for ridge in experiment.RIDGES]
    losses = [np.mean(np.log1p(np.exp(-(2 * validation.label - 1) * (validation.inputs @ p)))) for p in fits]
    np.testing.assert_allclose(best, fits[int(np.argmin(losses))], rtol=1e-5)


def test_the_draw_is_disjoint_and_the_weak_model_knows_something(digits):
    problem = experiment.make_problem("mnist", 0)
    assert [len(rows.label) for rows in (problem.pool, problem.weak, problem.validation)] == [600, 60, 200]
    seen = [
        row.tobytes() for rows in (problem.pool, problem.weak, problem.validation) for row in np.asarray(rows.inputs)
    ]
    assert len(set(seen)) > 855  # a few digits are the same picture
    np.testing.assert_allclose(problem.pool.inputs[:, :-1].std(0), 1, rtol=1e-3)
    right = (problem.logits.argmax(1) == problem.pool.label).mean()
    assert 0.65 < right < 0.95 and 0.4 < problem.pool.label.mean() < 0.6


def test_arms_keep_the_share_and_weigh_as_they_say(digits):
    problem, key = experiment.make_problem("mnist", 0), jax.random.key(0)
    p = jax.nn.softmax(problem.logits)
    uncertainty = np.asarray(p[:, 0] * p[:, 1])
    plain, unbiased = (np.asarray(experiment.power(1.0, flag)(problem, 0.3, key)) for flag in (False, True))
    assert set(plain) == {0.0, 1.0} and np.array_equal(plain > 0, unbiased > 0)
    assert plain.sum() == pytest.approx(180, abs=40)
    assert unbiased.sum() == pytest.approx(600, rel=0.35)
    assert uncertainty[plain > 0].mean() > 1.05 * uncertainty.mean()
    hardest = np.asarray(experiment.hardest(problem, 0.3, key))
    assert hardest.sum() == 180
    assert uncertainty[hardest > 0].min() >= uncertainty[hardest == 0].max() - 1e-6


def test_a_tiny_run_leaves_tables_and_plots(digits, tmp_path):
    config = experiment.Config(
        seeds=(0,),
        out=str(tmp_path),
        task="mnist",
        percents=(20,),
        draws=2,
        arms=("random", "random, weak model's too", "power 1.0, unbiased", "all"),
    )
    records = experiment.main(config)
    kept = {r["arm"]: r["metrics"]["kept"] for r in records}
    assert kept["all"] == 600 and kept["random, weak model's too"] == kept["random"] + 60
    assert all(r["metrics"]["test_error"] < 0.4 for r in records)
    assert (tmp_path / "test_error.png").exists() and (tmp_path / "mnist" / "table.md").exists()
