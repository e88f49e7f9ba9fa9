"""The tasks, estimators and training of the experiment against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.datasets import arrays
from experiments.engine import init_mlp
from experiments.selection import diverse_tasks as experiment


@pytest.fixture(scope="module")
def tasks():
    return experiment.make_tasks(0)


@pytest.fixture(scope="module")
def params():
    return init_mlp(jax.random.key(0), experiment.SIZES)


def test_images_are_turned_digits_of_the_two_classes(tasks):
    data = arrays("digits", "train")
    label_of = {image[..., 0].tobytes(): label for image, label in zip(data["image"], data["label"])}
    assert np.bincount(tasks.family).tolist() == [30, 10, 5, 3]
    for task in (0, 29, 35, 42, 47):
        pixels = np.rint((np.asarray(tasks.image[task]) + 0.3) * 16).astype(np.uint8).reshape(-1, 8, 8)
        upright = [np.ascontiguousarray(np.rot90(image, -int(tasks.family[task]))) for image in pixels]
        found = [label_of[image.tobytes()] for image in upright]
        assert found == [tasks.classes[task, int(second)] for second in tasks.second[task]]
        assert tasks.second[task].mean() == 0.5
    pairs = {(int(f), *map(int, c)) for f, c in zip(tasks.family, tasks.classes)}
    assert len(pairs) == 48


def test_errors_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    weights, gradients = rng.random((7, 5)), rng.normal(size=(5, 3))
    found = experiment.errors(jnp.asarray(weights, jnp.float32), jnp.asarray(gradients, jnp.float32))
    mean = gradients.mean(0)
    estimates = [sum(w * g for w, g in zip(row, gradients)) for row in weights]
    squares = [((estimate - mean) ** 2).sum() for estimate in estimates]
    assert float(found["relative_error"]) == pytest.approx(np.mean(squares) / (mean**2).sum(), rel=1e-4)
    bias = ((np.mean(estimates, axis=0) - mean) ** 2).sum() / (mean**2).sum()
    assert float(found["bias"]) == pytest.approx(bias, rel=1e-4)


def test_corrected_weights_are_unbiased_and_plain_ones_prefer_rare_tasks(tasks):
    weights = {
        name: np.asarray(experiment.drawn(selection, tasks, jax.random.key(3), 1500))
        for name, selection in experiment.selections(6).items()
        if selection is not None
    }
    assert all(((w > 0).sum(1) == 6).all() for w in weights.values())
    rare = np.asarray(tasks.family) >= 2
    shares = {name: w.mean(0)[rare].sum() for name, w in weights.items()}
    assert shares["uniform"] == pytest.approx(8 / 48, abs=0.015)
    assert shares["k-DPP, unbiased"] == pytest.approx(8 / 48, abs=0.015)
    assert shares["k-DPP"] > shares["uniform"] + 0.005
    np.testing.assert_allclose(weights["k-DPP, self-normalized"].sum(1), 1, rtol=1e-4)


def test_training_on_all_tasks_is_gradient_descent_on_the_mean_loss(tasks, params):
    config = experiment.Config(steps=(0, 2), learning_rate=0.1)
    found = experiment.trained(config, None, tasks, params, 0)
    slope = jax.jit(jax.grad(lambda p: jnp.mean(jax.vmap(experiment.task_loss, (None, 0))(p, tasks))))
    moved = params
    for _ in range(2):
        grads = slope(moved)
        moved = jax.tree.map(lambda p, g: p - 0.1 * g, moved, grads)
    for ours, expected in zip(jax.tree.leaves(found[2]), jax.tree.leaves(moved)):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found[0][0][0], params[0][0])


@pytest.mark.slow
def test_a_tiny_run_leaves_a_table_and_a_plot(tmp_path):
    config = experiment.Config(
        seeds=(0,), out=str(tmp_path), steps=(0, 3), draws=20, arms=("uniform", "k-DPP, unbiased")
    )
    records = experiment.main(config)
    assert [r["step"] for r in records] == [0, 3, 0, 3]
    assert all(r["metrics"]["relative_error"] > r["metrics"]["bias"] >= 0 for r in records)
    assert (tmp_path / "relative_error.png").exists() and "rare_loss" in (tmp_path / "table.md").read_text()
