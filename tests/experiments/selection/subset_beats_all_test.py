"""The theory of the experiment against closed forms, its fits against scikit-learn, and a tiny run."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from experiments.selection import _subset_problems as problems
from experiments.selection import subset_beats_all as experiment


def of_noise(share, arm):
    inclusion, unbiased = experiment.selections()[arm]
    problem = problems.make_problem("noise", 0)
    assert problem.theory is not None
    return problem.theory(lambda values: inclusion(values, share), unbiased)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_theory_of_unequal_noise_has_closed_forms(share):
    """Of all rows, of random ones, and of the least noisy: a normal integral, as the variance is log-normal."""
    tau, rho = problems.NOISE_SPREAD, problems.NOISE_KNOWN
    of_all = problems.NOISE_WIDTH / problems.NOISE_ROWS * np.exp(tau**2 / 2)
    assert of_noise(share, "all") == pytest.approx(of_all, rel=2e-3)
    assert of_noise(share, "random") == pytest.approx(of_all / share, rel=2e-3)
    certain = of_all * norm.cdf(norm.ppf(share) - rho * tau) / share**2
    assert of_noise(share, "most certain") == pytest.approx(certain, rel=2e-3)
    assert of_noise(share, "power 1.0, unbiased") > of_all > certain


def test_the_fit_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 4))
    label = (rng.random(300) < 1 / (1 + np.exp(-inputs @ [2.0, -1, 0, 0.5]))).astype(float)
    weights = rng.uniform(size=300) * (rng.random(300) < 0.5)
    found = problems.logistic(inputs, label, weights / 300, 1e-2)
    peer = LogisticRegression(C=1 / (1e-2 * 300), fit_intercept=False, tol=1e-10, max_iter=1000)
    peer.fit(inputs, label, sample_weight=weights)
    np.testing.assert_allclose(found, peer.coef_[0], rtol=1e-3, atol=1e-4)


def test_images_are_parted_and_the_weak_model_knows_something(monkeypatch):
    from experiments.datasets import arrays

    monkeypatch.setattr(problems, "arrays", lambda name, split: arrays("digits", split))
    for name, size in {"IMAGE_ROWS": 700, "IMAGE_WEAK": 100, "IMAGE_VALIDATION": 300, "DIMENSIONS": 20}.items():
        monkeypatch.setattr(problems, name, size)
    problem = problems.make_problem("fashion_mnist", 0)
    of_all = problem.error(np.ones(700))
    assert of_all < 0.25 and problem.error((np.arange(700) < 40).astype(float)) > of_all
    assert len(np.unique(problem.uncertainty.round(6))) > 350 and problem.uncertainty.max() <= 0.25


def test_a_tiny_run_leaves_a_subset_that_beats_all(tmp_path):
    config = experiment.Config(
        seeds=(0, 1), out=str(tmp_path), task="noise", percents=(40,), arms=("all", "random", "most certain")
    )
    records = experiment.main(config)
    error = {arm: np.mean([r["metrics"]["error"] for r in records if r["arm"] == arm]) for arm in config.arms}
    assert error["most certain"] < error["all"] < error["random"]
    assert (tmp_path / "errors.png").exists() and "theory, 40 %" in (tmp_path / "noise" / "table.md").read_text()
