"""The heads, curves and stops of active learning on texts against optimizers, loops and hand-made runs."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from experiments.selection import _label_pools as pools
from experiments.selection import active_texts as experiment
from experiments.selection._label_strategies import STRATEGIES, Budget
from experiments.selection._learning_curves import accuracies, area_under, by_area
from experiments.selection._linear_heads import Fit, labeled_rows, train_head
from experiments.selection.active_texts import Config, Run
from minibatch_jax import selection, weights_of

WORDS = [["piano", "violin", "sonata"], ["goal", "match", "striker"], ["stock", "dividend", "bond"]]


@pytest.fixture
def planted(monkeypatch):
    """Three topics with words of their own, some of them said in a text of another topic."""
    rng = np.random.default_rng(0)

    def arrays(name, split):
        label = rng.integers(0, 3, 600)
        said = [rng.choice(WORDS[c if rng.random() < 0.8 else rng.integers(3)], 2) for c in label for _ in range(2)]
        texts = [" ".join([*a, *b, "the"]).encode() for a, b in zip(said[::2], said[1::2])]
        return {"text": np.array(texts, object), "label": label.astype(np.int32)}

    monkeypatch.setattr(pools, "arrays", functools.cache(arrays))
    monkeypatch.setattr(pools, "ROWS", 550)
    monkeypatch.setattr(pools, "DIMENSIONS", 8)
    caches = pools.draw_texts, pools.draw_pool
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


def test_a_head_is_the_minimum_that_scipy_finds():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(12, 3)), rng.integers(0, 2, 12)
    weights = np.append(np.ones(9), np.zeros(3))
    inputs = np.column_stack([2.0 * features, np.ones(12)])

    def objective(head):
        logits = inputs @ head.reshape(4, 2)
        losses = logsumexp(logits, axis=1) - logits[np.arange(12), labels]
        return losses @ weights / 9 + 0.05 / 2 * np.sum(head**2)

    fit = Fit(steps=200, learning_rate=0.1, scale=2.0, decay=0.05)
    arrays = jnp.asarray(features, jnp.float32), jnp.asarray(labels), jnp.asarray(weights, jnp.float32)
    head = train_head(*arrays, fit=fit, classes=2)
    np.testing.assert_allclose(np.ravel(head), minimize(objective, np.zeros(8), tol=1e-9).x, atol=5e-3)


def test_rows_with_a_label_keep_their_shape():
    rows, classes = labeled_rows(np.array([-1, 2, -1, 0]), 3)
    assert rows.tolist() == [1, 3, 0] and classes.tolist() == [2, 0, -1]


def test_figures_of_a_curve():
    found = accuracies(np.array([0, 0, 2, 2]), np.array([0, 2, 2, 2]))
    assert found["accuracy"] == 0.75 and found["recall"] == pytest.approx((1 + 2 / 3) / 2)
    assert area_under([10, 20, 40], [0.0, 1.0, 0.5]) == pytest.approx((5 + 15) / 30)
    records = [{"step": n, "metrics": {"accuracy": n / 100, "recall": 0.5}} for n in range(20, 90, 10)]
    assert by_area(records) == pytest.approx({"area": 0.5, "last_accuracy": 0.8, "early_area": 0.4, "recall_area": 0.5})


def test_a_rule_ends_a_run_where_it_says():
    logits = [jnp.asarray(x) for x in ([[1.0, 0], [1, 0]], [[1.0, 0], [0, 1]], [[1.0, 0], [0, 1]])]
    run = Run({10 * n: {"accuracy": n / 10} for n in (1, 2, 3)}, logits)
    found = experiment.stopped(lambda *_: run, "sentiment", selection.stop_by_changes, 0)
    assert found == pytest.approx({"labels": 30, "accuracy": 0.3, "accuracy_lost": 0.0, "stopped": 1.0})
    found = experiment.stopped(lambda *_: run, "sentiment", lambda: selection.stop_after(2), 0)
    assert found == pytest.approx({"labels": 20, "accuracy": 0.2, "accuracy_lost": 0.1, "stopped": 1.0})
    found = experiment.stopped(lambda *_: run, "sentiment", lambda: selection.stop_after(9), 0)
    assert found == pytest.approx({"labels": 30, "accuracy": 0.3, "accuracy_lost": 0.0, "stopped": 0.0})


def test_all_arms_start_with_the_same_labels_and_learn(planted):
    config = Config(first=12, rounds=2, labels=6, steps=40)
    curves = {name: experiment.one_run(config, "sentiment", name, 3).curve for name in ("random", "margin")}
    assert all(list(curve) == [12, 18, 24] for curve in curves.values())
    assert curves["random"][12] == curves["margin"][12] and curves["margin"][24]["accuracy"] > 0.5


@pytest.mark.slow
def test_each_strategy_keeps_as_many_rows(planted):
    config = Config(first=12, rounds=1, labels=10, steps=40)
    pool = pools.draw_pool("sentiment", False, 0)
    labels = np.where(np.arange(len(pool.label)) < 12, pool.label, -1)
    for name, strategy in STRATEGIES.items():
        signals, _ = experiment.trained(config, pool, name, labels, 0, 22)
        free = jnp.asarray(labels < 0, jnp.float32)
        kept = np.asarray(weights_of(strategy(Budget(10, 3)), free, **signals))
        assert np.sum(kept) == 10 and not np.any(kept[:12]), name
