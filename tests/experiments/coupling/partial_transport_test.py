"""The mini-batch plans of the experiment against a closed form, and its problems and metrics against plain counting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from experiments.coupling import partial_transport as experiment


def expected_wrong_share(size: int, mass: float) -> float:
    """Of well-separated clusters: two batches with x and y of `size` items in the left cluster must pair `|x - y|`
    items across, and leave out as many of these as they may."""
    x = np.arange(size + 1)
    p = scipy.stats.hypergeom.pmf(x, experiment.NUM_ITEMS, experiment.NUM_ITEMS // 2, size)
    moved = mass * size
    crossing = np.maximum(np.abs(x[:, None] - x[None, :]) - (size - moved), 0)
    return float((p[:, None] * p[None, :] * crossing).sum() / moved)


@pytest.mark.parametrize("mass", [1.0, 0.75])
def test_the_share_that_crosses_clusters_is_what_the_counts_of_the_batches_force(mass):
    config = experiment.Config(num_pairs=1500)
    problem = experiment.make_problem("clusters", 3)
    plan = experiment.mean_plan(config, problem, experiment.partial(mass), 8, 3)
    assert plan.sum() == pytest.approx(mass, rel=1e-4)
    found = experiment.measure(plan, problem)["wrong_share"]
    assert found == pytest.approx(expected_wrong_share(8, mass), abs=0.012)


def test_measure_counts_mass_between_classes_and_votes():
    source, target = np.array([0, 1, 1]), np.array([1, 0, experiment.OUTLIER, 1])
    plan = np.array([[0.1, 0.2, 0.0, 0.0], [0.0, 0.1, 0.1, 0.0], [0.2, 0.0, 0.0, 0.0]])
    found = experiment.measure(plan, experiment.Problem(source, target, source, target))
    assert found["wrong_share"] == pytest.approx((0.1 + 0.1 + 0.1) / 0.7)
    assert found["accuracy"] == pytest.approx(2 / 3)  # the last item receives nothing


def test_the_control_keeps_the_cheapest_pairs_of_the_exact_plan():
    cost = np.random.default_rng(0).uniform(size=(8, 8)).astype(np.float32)
    rows, columns = scipy.optimize.linear_sum_assignment(cost)
    kept = np.argsort(cost[rows, columns])[:6]
    plan = np.zeros((8, 8))
    plan[rows[kept], columns[kept]] = 1 / 8
    np.testing.assert_allclose(jax.jit(experiment.cheapest(0.75))(jnp.asarray(cost)), plan, atol=1e-7)


def test_problems_hold_what_the_task_says():
    missing, outliers = (experiment.make_problem(task, 0) for task in ("missing", "outliers"))
    assert set(missing.target_label) == set(range(5)) and set(missing.source_label) == set(range(10))
    assert (outliers.target_label == experiment.OUTLIER).sum() == experiment.NUM_OUTLIERS
    for problem in (missing, outliers):
        assert problem.source.shape == problem.target.shape == (400, 64)
        assert problem.target.min() >= 0 and 0.9 < problem.target.max() <= 1
        assert not {x.tobytes() for x in problem.source} & {x.tobytes() for x in problem.target}


def test_a_tiny_run_leaves_a_table_and_a_picture(tmp_path):
    config = experiment.Config(
        seeds=(0,),
        out=str(tmp_path),
        task="clusters",
        batch_sizes=(4,),
        num_pairs=3,
        masses=(0.75, 0.5),
        arms=("m-OT", "m-POT, s = 0.75"),
    )
    assert [r["arm"] for r in experiment.main(config)] == ["m-OT", "m-POT, s = 0.75"]
    assert (tmp_path / "clusters" / "plans.png").exists()
    assert "wrong_share, m = 4" in (tmp_path / "clusters" / "table.md").read_text()
