"""The estimators against loops over scipy, the exact flow against descent, the posterior against a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from experiments.coupling import _bomb_abc as abc
from experiments.coupling import _bomb_data as data
from experiments.coupling import _bomb_methods as estimators
from experiments.coupling import hierarchical_transport as experiment

K, M = 3, 4


def solved(cost):
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    return cost[rows, columns].mean()


def test_estimates_equal_loops_over_scipy():
    x, y = np.random.default_rng(0).normal(size=(2, 20, 2)).astype(np.float32)
    cost, key = jnp.asarray(((x[:, None] - y[None]) ** 2).sum(-1)), jax.random.key(1)
    keys = jax.random.split(key)
    i, j = (np.asarray(estimators.mini_batches(k, 20, K, M, True)) for k in keys)
    costs = np.array([[solved(np.asarray(cost)[np.ix_(u, v)]) for v in j] for u in i])
    i, j = (np.asarray(estimators.mini_batches(k, 20, K**2, M, False)) for k in keys)
    own = np.mean([solved(np.asarray(cost)[np.ix_(u, v)]) for u, v in zip(i, j)])
    u, v = (np.asarray(estimators.mini_batches(k, 20, 1, K * M, True))[0] for k in keys)
    merged = solved(np.asarray(cost)[np.ix_(u, v)])
    wanted = {"OT of k m items": merged, "m-OT": costs.mean(), "BoMb-OT": solved(costs), "m-OT, own batches": own}
    for name, value in wanted.items():
        method = estimators.methods(0.5)[name]
        run = jax.jit(
            lambda key, c, f=method.value: f(key, lambda i, j: c[i[:, None], j[None, :]], (20, 20), K, M, True)
        )
        assert float(run(key, cost)) == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("disjoint", [True, False])
def test_no_item_is_twice_in_a_mini_batch_nor_in_two_disjoint_ones(disjoint):
    found = np.asarray(estimators.mini_batches(jax.random.key(2), 12, 3, 4, disjoint))
    assert all(len(set(row)) == 4 for row in found)
    assert len(set(found.ravel())) == 12 if disjoint else len(set(found.ravel())) < 12


def test_the_exact_flow_is_what_gradient_descent_does():
    x, y = (jnp.asarray(z) for z in np.random.default_rng(3).normal(size=(2, 6, 2)).astype(np.float32))
    config = experiment.Config(flow_rate=0.05, flow_evaluate_every=4)
    moved = np.asarray(x)
    for _ in range(4):
        columns = scipy.optimize.linear_sum_assignment(((moved[:, None] - np.asarray(y)[None]) ** 2).sum(-1))[1]
        moved = moved - 0.05 * 2 * (moved - np.asarray(y)[columns])
    found = jax.jit(lambda *clouds: experiment.descend_fully(config, *clouds))(x, y, jax.random.key(0))
    np.testing.assert_allclose(found, moved, rtol=1e-5)


def test_the_true_posterior_is_prior_times_likelihood():
    mean, observed = data.abc_data(4, 20)
    variance = np.linspace(0.5, 30, 20_000)
    squares = float(((np.asarray(observed) - np.asarray(mean)) ** 2).sum())
    log_density = -2 * np.log(variance) - 1 / variance - 20 * np.log(variance) - squares / (2 * variance)
    cumulative = np.cumsum(np.exp(log_density - log_density.max()))
    quantiles = np.interp((np.arange(8) + 0.5) / 8, cumulative / cumulative[-1], variance)
    np.testing.assert_allclose(data.true_posterior(mean, observed, 8), quantiles, rtol=1e-3)


def test_abc_accepts_the_variances_of_the_nearest_data():
    config = experiment.Config(abc_simulations=200, abc_accepted=10)
    mean, observed = data.abc_data(5, 64)
    distance = abc.abc_distances(config)["sufficient statistic"]
    found = abc.accepted(config, distance, jax.random.key(0), mean, observed)
    wanted = float(abc.spread(observed, mean))
    assert found.shape == (10,) and np.abs(np.log(np.asarray(found) / wanted)).mean() < 0.3


TINY = {"m": 2, "estimate_items": 8, "estimate_k": (2,), "estimate_draws": 2, "flow_items": (8, 8), "flow_k": 2}
TINY |= {"flow_steps": 2, "flow_evaluate_every": 1, "abc_items": 8, "abc_simulations": 8, "abc_accepted": 3}


@pytest.mark.parametrize(
    "task, arms, num_records, picture",
    [
        ("estimate", ("full OT",), 1, "error_digits.png"),
        ("flow", ("BoMb-OT", "full OT"), 6, "flow.png"),
        ("abc", ("sufficient statistic",), 1, "posteriors.png"),
    ],
)
def test_a_tiny_run_leaves_a_table_and_a_picture(tmp_path, task, arms, num_records, picture):
    config = experiment.Config(seeds=(0,), out=str(tmp_path), task=task, arms=arms, **TINY)
    assert len(experiment.main(config)) == num_records
    assert {"table.md", picture} <= {path.name for path in (tmp_path / task).iterdir()}
