"""Costs of the orders by hand and by enumeration, and searches on a table whose best rows are known."""

import itertools

import numpy as np
import pytest

from experiments.mixing import mixture_search as experiment
from experiments.shared.mixture_runs import VALIDATED, Runs

M = 8
CONFIG = experiment.Config(searches=4, limit=6, best=2, max_iterations=10)


@pytest.fixture
def table(monkeypatch):
    """Losses rise with the row at 60M; at 1M the two best rows come third and fourth. The second target is turned."""
    shares = np.linspace(0.9, 0.1, M)
    mixtures = np.stack([shares, (1 - shares) / 2, (1 - shares) / 2], axis=1)
    large = np.arange(M) / M
    small = 1 + np.array([2, 3, 0, 1, 4, 5, 6, 7]) / M
    column = VALIDATED.index("pile_cc")

    def runs(split):
        losses = np.tile((small if split == "test_1m" else large)[::-1][:, None], (1, len(VALIDATED)))
        losses[:, column] = losses[::-1, column]
        return Runs(mixtures, losses)

    monkeypatch.setattr(experiment, "mixture_runs", runs)
    return experiment.read_table(CONFIG.targets)


def test_goals_and_the_order_at_1m_are_those_of_the_table(table):
    ends = [set(goal.tolist()) for goal in experiment.goals(CONFIG, table)]
    assert ends[0] == {0, 1} and M - 1 in ends[1]
    np.testing.assert_allclose(experiment.small_first(CONFIG, table)[0], M / 60 + 3, rtol=1e-6)


def test_a_search_without_success_goes_on_with_the_order_at_1m(table):
    rows, sizes = np.array([0, 5, 2, 3]), np.array([0, 0, 1, 1])  # at 1M the order is 2, 3, 0, 1
    rest = experiment.rest_of_order(CONFIG, table.scores[0], experiment.goals(CONFIG, table)[0], rows, sizes)
    assert rest == pytest.approx((M - 2) / 60 + 1)


def test_random_orders_cost_what_the_first_best_row_of_all_orders_costs_on_average(table):
    many = experiment.Config(searches=4000, best=2)
    costs = experiment.random_orders(many, table, 0)
    first = [min(order.index(0), order.index(1)) + 1 for order in itertools.permutations(range(M))]
    assert costs.mean() == pytest.approx(np.mean(first), abs=0.05)
    starts = experiment.first_rows(many, table, 0)
    np.testing.assert_array_equal(costs[0] == 1, starts[0] < 2)


def test_searches_cost_one_run_for_a_lucky_start_and_whole_runs_at_60m(table):
    costs = experiment.searches(CONFIG, table, experiment.METHODS["60M, improvement"], 0)
    starts, goal = experiment.first_rows(CONFIG, table, 0), experiment.goals(CONFIG, table)
    lucky = np.array([np.isin(row, best) for row, best in zip(starts, goal)])
    np.testing.assert_array_equal(costs == 1, lucky)
    assert np.isin(costs, [*range(1, 7), np.inf]).all() and np.isfinite(costs).mean() >= 0.5
    counted = experiment.measured(CONFIG, lambda seed: np.array([[1, 2, 9, 3], [1, 1, 1, np.inf]]), 0)
    assert counted["median_cost_pile_cc"] == 2.5 and counted["mean_cost_pile_cc"] == 3
    assert counted["missed_pile_cc"] == counted["missed_all_domains"] == 0.25
