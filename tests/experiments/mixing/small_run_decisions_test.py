"""Decisions of losses, extrapolations with a known law, and the compute of runs."""

import numpy as np
import pytest

from experiments.mixing import small_run_decisions as experiment
from experiments.mixing.small_run_decisions import Config, Runs

CONFIG = Config(widths=(4, 8, 12, 16), target_width=24)


def test_right_losses_decide_all_pairs_and_reversed_ones_none():
    losses = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
    accuracy = -losses.mean(1)
    target = Runs(losses, accuracy, accuracy)
    right = experiment.decisions(2 * losses, target, target)
    assert set(right.values()) == {1.0}
    wrong = experiment.decisions(-losses, target, Runs(-losses, -accuracy, -accuracy))
    assert set(wrong.values()) == {0.0} and set(right) == set(experiment.METRICS)


def test_extrapolation_follows_a_law_that_crosses():
    """At small sizes the second recipe is better, at the target the first one."""
    compute = np.array([experiment.compute_of(CONFIG, (width,)) for width in CONFIG.widths])
    curves = [2.0 + 0.5 * compute**-0.3, 2.4 + 0.2 * compute**-0.3]
    losses = [np.array([[curve[i]] for curve in curves], np.float32) for i in range(4)]
    assert losses[0][0, 0] > losses[0][1, 0]
    np.testing.assert_allclose(experiment.extrapolate(CONFIG, losses, True)[:, 0], [2.5, 2.6], rtol=2e-3)


def test_compute_is_that_of_bytes_in_proportion_to_parameters():
    model = experiment.byte_model(8)
    steps = experiment.steps_of(CONFIG, 8)
    assert steps * CONFIG.batch_size * 32 == pytest.approx(8 * model.size, rel=0.05)
    large = experiment.byte_model(24)
    expected = (model.size * steps) / (large.size * experiment.steps_of(CONFIG, 24))
    assert experiment.compute_of(CONFIG, (8,)) == pytest.approx(expected, rel=1e-5)
    both = experiment.compute_of(CONFIG, (8,)) + experiment.compute_of(CONFIG, (16,))
    assert experiment.compute_of(CONFIG, (8, 16)) == pytest.approx(both, rel=1e-5)
