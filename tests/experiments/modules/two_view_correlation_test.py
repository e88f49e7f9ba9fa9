"""The estimator, the metrics and the split of the two-view experiment, against closed forms and plain counting."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine import folders
from experiments.modules import _two_view_scores
from experiments.modules import two_view_correlation as experiment
from experiments.modules._two_view_report import chance_correlation


def gaussian_codes(rows: int, width: int, shared: float = 0.0) -> experiment.Codes:
    """Two views whose coordinates correlate by `shared`, and the same for a test set."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 2 * rows, width)).astype(np.float32)
    y = (shared * x + np.sqrt(1 - shared**2) * noise).astype(np.float32)
    return experiment.Codes(x[:rows], y[:rows], x[rows:], y[rows:])


@pytest.fixture
def digit_views(monkeypatch):
    """Two views of as many digits as the data set holds, each a noisy mean of the digit's class, in other units."""
    rng = np.random.default_rng(0)
    means = {"fou": rng.normal(size=(10, 76)), "pix": rng.normal(size=(10, 240))}

    def split(each: int) -> dict[str, np.ndarray]:
        label = np.repeat(np.arange(10, dtype=np.int32), each)
        noisy = {name: mean[label] + rng.normal(size=(10 * each, mean.shape[1])) for name, mean in means.items()}
        return {name: (50 + 7 * view).astype(np.float32) for name, view in noisy.items()} | {"label": label}

    sets = {("digit_views", "train"): split(160), ("digit_views", "test"): split(40)}
    monkeypatch.setattr(_two_view_scores, "arrays", lambda name, split: sets[name, split])


def test_batches_of_independent_views_show_the_closed_form(monkeypatch):
    monkeypatch.setattr(experiment, "ESTIMATE_SIZES", (12, 400))
    found = experiment.batch_estimates(gaussian_codes(4000, 10), shuffled=True, seed=0)
    assert found[400]["sum_of_correlations"] == pytest.approx(chance_correlation(10, 400), rel=0.05)
    assert found[12]["sum_of_correlations"] > 9


def test_shuffling_breaks_the_pairs_and_nothing_else(monkeypatch):
    monkeypatch.setattr(experiment, "ESTIMATE_SIZES", (2000,))
    codes = gaussian_codes(2000, 4, shared=0.9)
    paired, shuffled = (experiment.batch_estimates(codes, s, 0)[2000]["sum_of_correlations"] for s in (False, True))
    assert paired == pytest.approx(3.6, abs=0.05) and shuffled < 0.3


def test_scores_fit_on_the_training_codes_and_measure_on_the_test_codes():
    codes = gaussian_codes(3000, 3, shared=0.8)
    mixed = codes._replace(
        second=codes.second @ np.diag([1.0, 5.0, 0.1]) + 7, second_test=codes.second_test @ np.diag([1, 5, 0.1]) + 7
    )
    labels = np.arange(3000) % 10
    digits = experiment.Digits(codes.first, codes.second, labels)
    found = experiment.scores(mixed, digits, digits, 0, 1e-6, canonical=True)
    assert found["correlation_train"] == pytest.approx(2.4, abs=0.05)
    assert found["correlation_test"] == pytest.approx(2.4, abs=0.05)
    unrelated = mixed._replace(second_test=mixed.second_test[::-1])
    assert abs(experiment.scores(unrelated, digits, digits, 0, 1e-6)["correlation_test"]) < 0.15


def test_paired_correlation_is_numpys():
    rng = np.random.default_rng(1)
    x, y = rng.normal(1, 3, (2, 50, 4))
    expected = sum(np.corrcoef(x[:, i], y[:, i])[0, 1] for i in range(4))
    assert _two_view_scores.paired_correlation(x, y) == pytest.approx(expected)


def test_clustering_accuracy_is_the_best_renaming(monkeypatch):
    monkeypatch.setattr(_two_view_scores, "NUM_CLASSES", 4)
    rng = np.random.default_rng(2)
    clusters, labels = rng.integers(0, 4, (2, 30))
    names = itertools.permutations(range(4))
    best = max(np.mean(np.array(name)[clusters] == labels) for name in names)
    assert _two_view_scores.clustering_accuracy(clusters, labels) == pytest.approx(best)


@pytest.mark.parametrize("validate", [False, True])
def test_views_stay_in_step_and_use_training_statistics(digit_views, validate):
    train, test = experiment.two_views(("fou", "pix"), validate)
    assert len(train.label) == (1280 if validate else 1600) and len(test.label) == (320 if validate else 400)
    np.testing.assert_allclose(train.second.mean(0), 0, atol=1e-4)
    assert set(np.bincount(test.label)) == {len(test.label) // 10}
    nearest = np.argmin(((test.second[:, None] - train.second[None, ::4]) ** 2).sum(-1), axis=1)
    assert np.mean(train.label[::4][nearest] == test.label) > 0.85


def test_fit_of_a_linear_objective_finds_the_minimum():
    x = jax.random.normal(jax.random.key(0), (60, 3))
    kernel = jnp.array([[1.0], [-2.0], [0.5]])
    params = {"first": [(jnp.zeros((3, 1)), jnp.zeros(1))]}

    def objective(params, whitening, x, y):
        ((w, b),) = params["first"]
        return jnp.mean((x @ w + b[None] - y) ** 2), whitening

    found = experiment.fit(objective, 100, 20, 0.1, 0.0, params, jax.random.key(1), (x, x @ kernel + 1))
    np.testing.assert_allclose(found["first"][0][0], kernel, atol=1e-2)
    np.testing.assert_allclose(found["first"][0][1], 1, atol=1e-2)


@pytest.mark.slow
def test_the_whole_experiment_in_little(tmp_path, monkeypatch, digit_views):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(experiment, "ESTIMATE_SIZES", (20, 1600))
    monkeypatch.setattr(experiment, "NUM_ESTIMATES", 4)
    sizes = dict.fromkeys(("DCCAE", "orthogonal iteration"), (400,))
    monkeypatch.setattr(experiment, "BATCH_SIZES", sizes)
    tuned = {f"{name}, B = 400": experiment.Tuned(1e-2, 0.1) for name in sizes}
    monkeypatch.setattr(experiment, "TUNED", tuned)
    out = tmp_path / "out"
    records = experiment.main(experiment.Config(seeds=(0,), out=str(out), epochs=3, hidden=16))
    found = {r["arm"]: r["metrics"] for r in records}
    assert len(found) == 4 + len(sizes)
    assert found["DCCAE, B = 400"]["correlation_train"] > found["untrained"]["correlation_train"]
    assert all(0.1 < m["probe_accuracy"] <= 1 for m in found.values())
    assert (out / "batch_size.png").stat().st_size > 10_000
