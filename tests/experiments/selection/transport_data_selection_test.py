"""The rankings and the draw of the experiment against loops, autodiff and planted clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.selection import _shifted_texts as shifted
from experiments.selection import transport_data_selection as experiment
from experiments.selection._shifted_texts import Rows
from experiments.selection.transport_data_selection import Problem

WORDS = 40
"""words that only one domain has"""


def texts(count, seed):
    """Documents of four domains, whose words tell the domain and, with noise, one of two labels."""
    rng = np.random.default_rng(seed)
    domain, label = rng.integers(4, size=count), rng.integers(2, size=count)
    words = domain[:, None] * WORDS + rng.integers(WORDS // 2, size=(count, 12)) * 2 + label[:, None]
    text = np.array([" ".join(f"word{w}" for w in row).encode() for row in words], object)
    return {"text": text, "label": label.astype(np.int32), "domain": domain.astype(np.int32)}


@pytest.fixture
def small(monkeypatch):
    splits = {"train": texts(1200, 0), "test": texts(400, 1)}
    monkeypatch.setattr(shifted, "arrays", lambda name, split: splits[split])
    sizes = {"POOL": 200, "BEFORE": 80, "TARGET": 40, "TEST": 60, "DIMENSIONS": 30}
    for name, size in sizes.items():
        monkeypatch.setattr(shifted, name, size)
    monkeypatch.setattr(experiment, "TRANSPORT_DIMENSIONS", 20)


@pytest.fixture
def clusters():
    """A pool with 19 items of one cluster for each of another, a target with as many of both, linear labels."""
    rng = np.random.default_rng(0)

    def rows(scarce):
        features = rng.normal(size=(len(scarce), 3)) * 0.3 + np.where(scarce, -1.0, 1.0)[:, None] * np.eye(3)[0]
        return Rows(features.astype(np.float32), rng.integers(3, size=len(scarce)), scarce)

    pool, target = rows(np.arange(400) % 20 == 0), rows(np.arange(100) % 2 == 0)
    return Problem(pool, target, target, jnp.asarray(rng.normal(size=(3, 3)), jnp.float32))


def test_transport_takes_what_the_pool_lacks_and_the_nearest_are_of_what_it_has(clusters):
    found = experiment.by_transport(clusters, 0, epsilon=0.01)[:16]
    assert clusters.pool.scarce[found].mean() > 0.9
    assert clusters.pool.scarce[experiment.nearest(clusters, 0)[:16]].mean() < 0.2
    assert clusters.pool.scarce[experiment.scarce_first(clusters, 0)].tolist() == [True] * 20 + [False] * 380


def test_nearest_in_turn_lets_each_target_name_one_after_the_other(clusters):
    distances = np.linalg.norm(
        experiment.leading(clusters.pool.features)[:, None] - experiment.leading(clusters.target.features)[None], axis=2
    )
    order = experiment.nearest_in_turn(clusters, 3)
    assert sorted(order) == list(range(400))
    expected = []
    for rank in range(2):
        for item in np.random.default_rng(3).permutation(100):
            candidate = np.argsort(distances[:, item], kind="stable")[rank]
            if candidate not in expected:
                expected.append(candidate)
    assert order[: len(expected)].tolist() == expected


def test_gradient_match_is_the_inner_product_of_gradients(clusters):
    def loss(params, features, label):
        return optax.softmax_cross_entropy_with_integer_labels(features @ params, label).mean()

    mean = np.asarray(jax.jit(jax.grad(loss))(clusters.params, clusters.target.features, clusters.target.label))
    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(clusters.params, *map(jnp.asarray, clusters.pool[:2]))
    products = np.sum(gradients * mean[None], axis=(1, 2))[experiment.gradient_match(clusters, 0)]
    assert np.all(np.diff(products) <= 1e-6)


def test_the_draw_is_disjoint_and_has_the_shares(small):
    domain = shifted.arrays("newsgroups", "train")["domain"]
    parts = shifted.drawn(np.random.default_rng(0), domain, np.array([1, 2]))
    assert [len(part) for part in parts] == [200, 80, 40, 60]
    assert len(np.unique(np.concatenate(parts))) == 380
    for part, scarce in zip(parts, (0.05, 0.05, 0.25, 0.25)):
        counts = [(domain[part] == name).mean() for name in range(4)]
        assert counts == pytest.approx([0.5 - scarce, scarce, scarce, 0.5 - scarce])


@pytest.mark.parametrize("validate", [False, True])
def test_features_are_unit_vectors_and_a_constant_and_test_rows_are_even(small, validate):
    problem = experiment.make_problem("sentiment", validate, 4)
    for rows, size in zip(problem[:3], (200, 40, 60)):
        assert rows.features.shape == (size, 31)
        lengths = np.linalg.norm(rows.features[:, :-1], axis=1)
        assert np.all(np.isclose(lengths, 1, rtol=1e-4) | (lengths == 0)) and lengths.mean() > 0.8
    assert [rows.scarce.mean() for rows in problem[:3]] == pytest.approx([0.1, 0.5, 0.5])
    assert experiment.scores(problem)["accuracy"] > 0.6


def test_a_tiny_run_leaves_tables_and_plots(small, tmp_path):
    config = experiment.Config(
        seeds=(0,), out=str(tmp_path), task="sentiment", budgets=(8, 16), arms=("no more training", "random", "GOT-D")
    )
    records = experiment.main(config)
    assert len(records) == 6
    scarce = {r["arm"]: r["metrics"]["scarce"] for r in records if "scarce" in r["metrics"]}
    assert scarce["GOT-D"] > scarce["random"]
    assert (tmp_path / "accuracy.png").exists() and (tmp_path / "loss.png").exists()
