"""The tasks, the learner and the estimators of the experiment against plain loops and finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from experiments.engine import init_mlp
from experiments.selection import _emoji_tasks as sources
from experiments.selection import diverse_tasks as experiment

SUBCATEGORIES = np.repeat([0, 1, 2, 3], [80, 40, 22, 8])


@pytest.fixture(autouse=True)
def emoji(monkeypatch):
    """150 emoji of 16x16 pixels; the red channel is their number, and a green pixel stands at that of the style."""

    def arrays(name, split):
        rows = np.arange(150) % 5 == 4 if split == "test" else np.arange(150) % 5 != 4
        if name == "emoji_taxonomy":
            return {"label": SUBCATEGORIES[rows] // 2, "domain": SUBCATEGORIES[rows]}
        images = np.zeros((150, 16, 16, 3), np.uint8)
        images[..., 0], images[:, 0, 2 * sources.STYLES.index(name), 1] = np.arange(150)[:, None, None], 255
        images[..., 2] = np.random.default_rng(0).integers(0, 40, (150, 16, 16))
        return {"image": images[rows]}

    monkeypatch.setattr(sources, "arrays", arrays)
    monkeypatch.setattr(sources, "check_fetched", lambda *names: None)


@pytest.fixture
def config():
    return experiment.Config(num_tasks=12, k=3, draws=1500, steps=(0, 2))


def test_a_task_is_five_emoji_of_one_subcategory_and_none_is_in_both_halves():
    train, test = sources.make_tasks(0, 100, 100)
    numbers = []
    for tasks in (train, test):
        parts = [np.asarray(part).reshape(-1, 5, 2, 8, 8, 3) for part in (tasks.support, tasks.query)]
        both = np.concatenate(parts, axis=2)
        red = both[..., 5, 5, 0].round(4)
        assert (red == red[:, :, :1]).all() and len(np.unique(red)) == red[:, :, 0].size
        styles = both[..., 0, :4, 1].argmax(-1)
        assert (np.sort(styles, axis=2) == np.arange(4)).all() and (styles == styles[:, :1]).all()
        numbers.append(set(red.ravel().tolist()))
    assert not numbers[0] & numbers[1]
    assert np.bincount(np.asarray(train.subcategory)).tolist() == [8, 4, 2]
    np.testing.assert_array_equal(train.category, np.asarray(train.subcategory) // 2)


def test_likeness_is_that_of_the_taxonomy():
    train, _ = sources.make_tasks(0, 100, 100)
    features = np.asarray(sources.taxonomy_features(train))
    kinds = np.asarray(train.subcategory)
    for i, row in enumerate(features @ features.T):
        wanted = [1 if i == j else 0.8 if k == kinds[i] else 0.4 if k // 2 == kinds[i] // 2 else 0
                  for j, k in enumerate(kinds)]  # fmt: skip
        np.testing.assert_allclose(row, wanted, atol=1e-6)


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


def test_corrected_weights_are_unbiased_and_plain_ones_prefer_rare_subcategories(config):
    train, _ = sources.make_tasks(0, 12, 12)
    features, rare = sources.taxonomy_features(train), np.asarray(train.subcategory) == 2
    shares = {}
    for name in ("uniform", "k-DPP", "k-DPP, unbiased"):
        selection, _ = experiment.selections(3)[name]
        assert selection is not None
        draws = jax.jit(lambda key, features, tx=selection: experiment.drawn(tx, key, features, 1500))
        weights = np.asarray(draws(jax.random.key(3), features))
        assert ((weights > 0).sum(1) == 3).all()
        shares[name] = weights.mean(0)[rare].sum()
    assert shares["uniform"] == pytest.approx(rare.mean(), abs=0.02)
    assert shares["k-DPP, unbiased"] == pytest.approx(rare.mean(), abs=0.02)
    assert shares["k-DPP"] > shares["uniform"] + 0.05


def test_the_second_order_is_the_slope_of_the_adapted_loss_and_the_first_is_not(config):
    train, _ = sources.make_tasks(0, 12, 12)
    task = jax.tree.map(lambda column: column[0], train)
    params = init_mlp(jax.random.key(0), experiment.SIZES)
    flat, restore = ravel_pytree(params)
    slopes = {}
    with jax.enable_x64(True):
        task = jax.tree.map(lambda column: jnp.asarray(np.asarray(column, np.float64)), task)
        direction = np.random.default_rng(0).normal(size=len(flat))
        learners = {
            o: experiment.Learner(dataclasses.replace(config, order=o, inner_rate=0.5)) for o in ("first", "second")
        }
        loss = jax.jit(lambda x: learners["second"].loss(jax.tree.map(jnp.float64, restore(x)), task))
        along = (loss(flat + 1e-4 * direction) - loss(flat - 1e-4 * direction)) / 2e-4
        for order, learner in learners.items():
            tasks = jax.tree.map(lambda column: column[None], task)
            slopes[order] = float(learner.meta_gradients(jax.tree.map(jnp.float64, params), tasks)[0] @ direction)
    assert slopes["second"] == pytest.approx(float(along), rel=0.02)
    assert abs(slopes["first"] - slopes["second"]) > 0.05 * abs(slopes["second"])


@pytest.mark.slow
def test_a_tiny_run_leaves_tables_and_plots(tmp_path):
    config = experiment.Config(
        seeds=(0,), out=str(tmp_path), num_tasks=12, steps=(0, 2), draws=20, arms=("uniform", "k-DPP, unbiased")
    )
    records = experiment.main(config)
    assert [r["step"] for r in records] == [0, 2] * 4
    assert all(r["metrics"]["relative_error"] > r["metrics"]["bias"] >= 0 for r in records)
    assert (tmp_path / "relative_error.png").exists() and "accuracy" in (tmp_path / "first" / "table.md").read_text()
