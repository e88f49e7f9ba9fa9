"""Estimates of accuracies from some items, against means by hand, and choices by class."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection import anchor_items as experiment
from experiments.selection import task_subsets
from experiments.selection.anchor_items import Config, Problem
from minibatch_jax.selection import AnchorItems, ItemResponse


def problem():
    rng = np.random.default_rng(0)
    right = (rng.random((9, 40)) < rng.random((9, 1))).astype(np.float32)
    items = ItemResponse(jnp.ones((40, 1)), jnp.zeros(40), jnp.zeros((6, 1)))
    return Problem(jnp.asarray(right[:6]), right[6:], np.arange(40) % 10, items)


def test_errors_are_those_of_means_by_hand():
    found, indices, mass = problem(), np.array([3, 8, 20]), np.array([0.5, 0.2, 0.3])

    def choice(problem, budget, seed):
        return [AnchorItems(jnp.asarray(indices), jnp.asarray(mass, jnp.float32))]

    config = Config(budgets=(3,))
    some, truth = found.judged[:, indices], found.judged.mean(1)
    for arm, estimate in (
        (experiment.plain_mean, some.mean(1)),
        (experiment.weighted_mean, some @ mass),
    ):
        metrics = experiment.measure(config, lambda seed: found, arm(choice), 0)[3]
        assert metrics["error"] == pytest.approx(np.abs(estimate - truth).mean(), abs=1e-6)
        assert metrics["bias"] == pytest.approx((estimate - truth).mean(), abs=1e-6)


def test_items_of_each_class_are_as_many_up_to_one():
    for budget in (10, 23):
        for anchors in experiment.items_of_each_class(problem(), budget, 1):
            counts = np.bincount(np.arange(40)[np.asarray(anchors.indices)] % 10, minlength=10)
            assert counts.sum() == budget and np.ptp(counts) <= 1 and len(set(anchors.indices.tolist())) == budget


def test_losses_that_are_measured_count_as_they_are_and_families_are_of_the_leading_domain():
    rng = np.random.default_rng(0)
    record = rng.normal(size=(30, 1)) * np.array([1.0, 2.0, -1.0, 0.5]) + 3
    judged = rng.normal(size=(8, 1)) * np.array([1.0, 2.0, -1.0, 0.5]) + 3
    given = task_subsets.Problem(jnp.float32(record), jnp.zeros(30, jnp.int32), jnp.float32(judged))
    scores = task_subsets.scores(given, jnp.array([1]), 0.0)
    assert scores["R2"] == pytest.approx(1, abs=1e-4) and scores["error of the mean"] < 1e-4
    mixtures = np.eye(7)[[0, 0, 0, 5, 5, 5, 2, 2, 3, 3, 1, 4]]
    assert task_subsets.families(mixtures).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
