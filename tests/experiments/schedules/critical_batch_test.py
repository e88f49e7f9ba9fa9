"""The measurement on a quadratic whose steps are known, the noise of gradients that are known, and the report."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.schedules import _critical_batch_report as report
from experiments.schedules import _steps_to_goal as steps_to_goal
from experiments.schedules import critical_batch as experiment
from experiments.schedules._workloads import Task, Workload

CURVATURES = np.array([1.0, 0.1], np.float32)


def sgd(rate, warmup):
    return optax.sgd(rate)


def quadratic(params, batch):
    return 0.5 * jnp.sum(CURVATURES * params**2) + 0 * batch


def test_without_noise_the_best_rate_and_the_steps_are_known_and_no_batch_size_saves_any():
    task = Task(lambda key: jnp.ones(2), quadratic, sgd)
    data = jnp.zeros(8)
    # a rate of 2 keeps the first coordinate at 1; at a rate of 1 it is 0 at once and the second shrinks by 0.9 a step
    workload = Workload(task, data, data[:1], (2, 8), 2 * 16, 4.0, 2, 1.06)
    found, goal = steps_to_goal.measure(workload, (0, 1, 2))
    assert goal == pytest.approx(0.05 * 0.9**32, rel=1e-5)
    for measured in found.values():
        assert measured.rate == 1
        np.testing.assert_allclose([measured.tuned_steps, *measured.steps], 16, rtol=1e-3)


def test_the_noise_scale_of_a_run_is_that_of_the_rows():
    rows = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) + np.array([1.0, 0.0, 0.5], np.float32)
    task = Task(lambda key: jnp.zeros(3), lambda params, batch: batch @ params, sgd)
    workload = Workload(task, jnp.asarray(rows), None, (64,), 1000, 1.0, 64, 1.06)
    noise = steps_to_goal.noise_along(workload, 0.1, 40, seed=0)
    mean = rows.mean(0)
    assert noise[-1] == pytest.approx(np.trace(np.cov(rows.T)) / (mean @ mean), rel=0.25)


def records_of(a, b, noise, sizes):
    def record(size):
        metrics = {"steps": a + b / size, "noise_scale": noise, "noise_scale_early": 1.0, "noise_scale_late": 2.0}
        return {"arm": "images", "seed": 0, "step": size, "metrics": metrics | {"goal": 0.5}}

    return [record(size) for size in sizes]


def test_the_report_of_a_known_curve(tmp_path):
    config = experiment.Config(seeds=(0,), out=str(tmp_path))
    records = records_of(20.0, 8000.0, 800.0, (16, 64, 256, 1024, 4096))
    found = report.summarized(config, (16, 256, 4096), records)
    assert found["critical_batch"] == pytest.approx(1.2 * 16 + 0.2 * 400, rel=1e-3)
    assert found["turn"] == pytest.approx(400, rel=1e-3)
    assert found["log2_ratio"] == pytest.approx(1, abs=1e-2)
    assert 2 ** found["log2_perfect_until"] == 64  # 145 steps; the line says 130
    made = {
        r["arm"]: r["metrics"]["log2_error"]
        for r in report.predictions(config, records_of(20.0, 8000.0, 400.0, (16, 64)))
    }
    assert made["images: noise scale"] == pytest.approx(0, abs=1e-5)
    assert made["images: perfect scaling"] == pytest.approx(np.log2(145 / 130), rel=1e-4)


def test_the_arms_beside_the_first_have_every_second_batch_size(monkeypatch):
    images = np.zeros((20, 196), np.float32), np.zeros(20, np.int32)
    split = dict(zip(("image", "label"), images))
    monkeypatch.setattr(experiment, "image_data", lambda held_out: (split, split))
    made = {name: make() for name, make in experiment.workloads(experiment.Config()).items()}
    assert made["images"].batch_sizes[-1] == 8192 and len(made["images"].batch_sizes) == 10
    assert made["images, momentum"].batch_sizes == (16, 64, 256, 1024, 4096)
    assert made["images, quarter of the data"].examples * 4 == made["images"].examples
