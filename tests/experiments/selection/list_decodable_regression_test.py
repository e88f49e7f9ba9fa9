"""The problems of the experiment and its baselines, against plain counting and known regressors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.selection import _regression_sources as sources
from experiments.selection import list_decodable_regression as experiment


def bike_table(num_days=20, lost=(3, 7)):
    """Rows of hours in disorder, as the data set has them; one hour of day 3 is missing."""
    rng = np.random.default_rng(0)
    day, hour = (grid.ravel() for grid in np.meshgrid(np.arange(num_days), np.arange(24), indexing="ij"))
    features = np.zeros((len(day), 26), np.float32)
    features[:, 13], features[:, 14], features[:, 17] = day, hour, day % 7 < 5
    features[:, 22:26] = rng.normal(size=(len(day), 4))
    rows = rng.permutation(np.flatnonzero((day != lost[0]) | (hour != lost[1])))
    return {"features": features[rows], "target": (100 * day + hour)[rows].astype(np.float32)}


@pytest.fixture
def bicycles(monkeypatch):
    table = bike_table()
    halves = {split: {k: v[start::2] for k, v in table.items()} for start, split in enumerate(("train", "test"))}
    monkeypatch.setattr(sources, "arrays", lambda name, split: halves[split])


def test_days_are_complete_and_in_order_of_their_hours(bicycles):
    inputs, hires, working = sources.days()
    assert inputs.shape == (19, 24, 12) and hires.shape == (19, 24)
    spread = np.diff(hires, axis=1)
    np.testing.assert_allclose(spread, spread[0, 0], rtol=1e-3)  # the target counts the hours of the day
    assert hires.mean() == pytest.approx(0, abs=1e-5) and hires.std() == pytest.approx(1, rel=1e-4)
    assert working.tolist() == [day % 7 < 5 for day in range(20) if day != 3]
    np.testing.assert_allclose(inputs[5, :, 1], np.sin(2 * np.pi * np.arange(24) / 24), atol=1e-6)


def test_bicycle_days_are_sources_trusted_or_test_days_but_not_two_of_them(bicycles):
    inputs, hires, working = sources.days()
    problem = sources.make_problem("bicycles", 0)
    day_of = {np.float32(value): number for number, row in enumerate(hires) for value in row}
    days_of = [{day_of[value] for value in row} for row in problem.targets]
    assert all(len(days) == 1 for days in days_of)
    numbers = [days.pop() for days in days_of]
    (trusted,) = {day_of[value] for value in problem.trusted[1]}
    np.testing.assert_array_equal(problem.genuine, [not working[number] for number in numbers])
    test = set(np.flatnonzero(~working)) - set(numbers) - {trusted}
    assert trusted not in numbers and len(test) == 5 - int(0.7 * 5)
    regressor = np.random.default_rng(1).normal(size=12)
    squares = [(x @ regressor - y) ** 2 for day in test for x, y in zip(inputs[day], hires[day])]
    assert problem.error(regressor) == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-4)
    assert problem.error(np.stack([regressor, regressor * 0])).shape == (2,)


@pytest.mark.parametrize(("task", "share"), [("clusters", 0.3), ("ten_groups", 0.1), ("line", 0.3)])
def test_genuine_sources_have_the_regressor_that_the_error_measures(task, share):
    problem = sources.make_problem(task, 3)
    assert problem.genuine.mean() == pytest.approx(share)
    assert problem.error(experiment.ols(*experiment.genuine_samples(problem))) < 0.06
    assert problem.error(experiment.ols(*problem.trusted)) < 0.6
    impostors = problem.inputs[~problem.genuine], problem.targets[~problem.genuine]
    assert problem.error(experiment.ols(*impostors)) > 0.8


def test_batches_are_pieces_of_one_source():
    problem = sources.make_problem("line", 0)
    inputs, targets = experiment.cut(problem, 8)
    np.testing.assert_array_equal(inputs[5], problem.inputs[1, 8:16])
    np.testing.assert_array_equal(targets[5], problem.targets[1, 8:16])


def test_single_fits_are_right_where_few_sources_are_wrong():
    """With a tenth of impostors all of them must do what the list does with a tenth of genuine ones."""
    problem = sources.make_problem("clusters", 0)
    kept = np.concatenate([np.flatnonzero(problem.genuine), np.flatnonzero(~problem.genuine)[:5]])
    few = problem._replace(inputs=problem.inputs[kept], targets=problem.targets[kept], genuine=problem.genuine[kept])
    pooled = few.error(experiment.ols(few.inputs, few.targets))
    for regressor in (
        experiment.huber(few.inputs, few.targets),
        experiment.filtered(few.inputs, few.targets, few.genuine.mean()),
        experiment.trimmed_from_trusted(few, few.inputs, few.targets, 16),
    ):
        assert few.error(regressor) < 0.06 < pooled


def test_a_tiny_run_leaves_tables_and_a_plot(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "BATCH_SIZES", (24, 32))
    arms = ("OLS", "list, few trusted", "list, best of it")
    config = experiment.Config(seeds=(0,), out=str(tmp_path), task="clusters", arms=arms, num_starts=6)
    with jax.numpy_rank_promotion("raise"):
        records = experiment.main(config)
    errors = {(r["arm"], r["step"]): r["metrics"]["error"] for r in records}
    assert len(errors) == 3
    assert errors["list, best of it", 32] <= errors["list, few trusted", 32] < errors["OLS", 32]
    assert (tmp_path / "errors.png").exists()
    assert "error, n = 32" in (tmp_path / "clusters" / "table.md").read_text()


@pytest.mark.parametrize("adversary", experiment.ADVERSARIES)
def test_an_adversary_puts_the_wrong_regressors_at_its_distance(adversary):
    problem = sources.imitators(adversary, 0.5, 0)
    assert problem.genuine.sum() == 45
    assert problem.error(experiment.ols(*experiment.genuine_samples(problem))) < 0.05
    far = [problem.error(experiment.ols(problem.inputs[i], problem.targets[i])) for i in range(45, 150)]
    assert np.mean(far) == pytest.approx(0.27 if adversary == "chain" else 0.5, abs=0.06)
    residuals = [np.std(problem.targets[i] - problem.inputs[i] @ experiment.ols(problem.inputs[i], problem.targets[i]))
                 for i in range(150)]  # fmt: skip
    assert np.mean(residuals[:45]) > 0.2 and (max(residuals[45:]) < 1e-3) == (adversary == "quiet")


def test_a_list_by_the_multifilter_does_not_depend_on_the_scale_of_the_inputs():
    problem = sources.imitators("side", 2.0, 0)
    inputs, targets = problem.inputs, problem.targets
    turned = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    found, other = (experiment.filtered_candidates(0, jnp.asarray(x), jnp.asarray(targets), 0.3, 2.0)
                    for x in (inputs, inputs @ turned))  # fmt: skip
    valid = np.asarray(found.valid)
    assert valid.any() and np.array_equal(valid, other.valid)
    np.testing.assert_allclose(found.parameters[valid], (other.parameters @ turned.T)[valid], rtol=0.02, atol=0.01)


def test_random_lists_are_as_long_as_the_bound_and_the_multifilter_is_better():
    problem = sources.imitators("side", 2.0, 0)
    batches = problem.inputs, problem.targets, 0
    random = experiment.random_list(problem, *batches)
    found = experiment.fits(experiment.Config())["multifilter, best of it"](problem, *batches)
    assert random["list_length"] == 44 >= found["list_length"] and found["error"] < 0.1 < random["error"]
