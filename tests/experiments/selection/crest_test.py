"""Coresets of the experiment against the library's one transformation; the summary and the batches; a short run."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.datasets import arrays
from experiments.engine import folders, init_mlp
from experiments.selection import crest
from minibatch_jax import value_and_grad
from minibatch_jax.mining.class_batches import index_classes
from minibatch_jax.sampling.coresets import random_coreset
from minibatch_jax.selection import keep_class_medoids
from minibatch_jax.selection.crest import LearnedState

CONFIG = crest.Config(subset=6, medoids=2)
ROWS = 10 * CONFIG.subset
ERROR_WITHOUT = "error_ratio_without_weights"


@functools.cache
def digits(pool=0, validate=False):
    def split(name):
        data = arrays("digits", name)
        return {"image": data["image"].reshape(-1, 64).astype(np.float32) / 8 - 1, "label": data["label"]}

    return {"train": split("train"), "test": split("test")}


@pytest.fixture
def train(monkeypatch):
    monkeypatch.setattr(crest, "fashion", digits)
    return jax.tree.map(jnp.asarray, digits()["train"])


@pytest.fixture
def params():
    return init_mlp(jax.random.key(0), (64, 8, 10))


def test_a_coreset_is_that_of_the_transformation(train, params):
    examples, learned = index_classes(train["label"], 10), LearnedState(jnp.zeros(len(train["label"]), jnp.int32))

    @jax.jit
    def choose(key):
        made = random_coreset(
            crest.losses_and_features, key, params, train, examples, learned, **crest.sizes_of(CONFIG)
        )
        batch = jax.tree.map(lambda x: x[made.subset], train)
        select = value_and_grad(crest.losses_and_features, keep_class_medoids(20, 10), has_aux=True)
        signals = {"labels": batch["label"]}
        aux = select(params, batch, optax.EmptyState(), weights=jnp.ones(ROWS), **signals)[0][1]
        return made, aux.weights, crest.losses_and_features(params, batch)[1]["features"]

    made, wanted, features = jax.device_get(choose(jax.random.key(1)))
    found = np.zeros(ROWS)
    for row, weight in zip(*made.rows):
        found[np.flatnonzero(made.subset == row)[0]] += ROWS * weight
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    distances[train["label"][made.subset][:, None] != train["label"][made.subset][None]] = np.inf

    def to_medoids(medoids):  # of two examples alone in a cluster either may be the medoid
        return np.where(medoids[:, None] > 0, distances, np.inf).min(0).reshape(10, -1).sum(1)

    np.testing.assert_allclose(to_medoids(found), to_medoids(wanted), rtol=1e-4)
    assert (found.reshape(10, -1) > 0).sum(1).tolist() == [2] * 10
    np.testing.assert_allclose(found.reshape(10, -1).sum(1), CONFIG.subset, rtol=1e-5)


def test_fresh_coresets_are_new_after_every_step_and_have_no_model(train, params):
    sampler = crest.sampler_of(CONFIG, "fresh coresets")
    state = sampler.init(0, labels=train["label"], params=params)
    step = jax.jit(lambda state: sampler.update(state, sampler.sample(state)[0], params=params, data=train))
    first = step(state)
    second = step(first)
    for state in (first, second):
        assert int(state.filled) == 1
        np.testing.assert_allclose(state.coresets.weights[0].sum(), 1, rtol=1e-5)
    assert first.coresets.indices[0].tolist() != second.coresets.indices[0].tolist()
    assert int(second.costs.coresets) == 2 and int(second.costs.selections) == 0


def test_where_every_row_is_a_medoid_a_coreset_is_a_random_batch(train, params):
    """Stratified by class, so that its error is a little below that of a random batch of the same size."""
    config = crest.Config(subset=8, medoids=8)
    made = [crest.error_ratios(jax.random.key(k), params, train, config) for k in range(20)]
    ratio, without_weights = (np.array([m[name] for m in made]) for name in ("error_ratio", ERROR_WITHOUT))
    np.testing.assert_allclose(ratio, without_weights, rtol=1e-4)
    assert 0.4 < np.exp(np.log(ratio).mean()) < 1.2


def test_batches_are_permutations():
    rows = crest.random_rows(num_examples=10, batch_size=3, steps=7, seed=0)
    assert rows.shape == (7, 3)
    for epoch in (rows[:3], rows[3:6]):
        assert len(set(epoch.reshape(-1).tolist())) == 9
    assert rows[:3].tolist() != rows[3:6].tolist()


def test_summary_takes_the_first_evaluation_at_the_target():
    curve = [(0.5, 1.0, 0.2), (0.86, 2.0, 0.4), (0.84, 3.0, 0.6)]
    records = [{"metrics": {"test_accuracy": a, "cpu_seconds": s, "error_ratio": e}} for a, s, e in curve]
    made = crest.summarize((0.85, 0.9), records)
    assert (made["test_accuracy"], made["seconds_to_85%"], made["cpu_seconds"]) == (0.84, 2.0, 3.0)
    assert math.isnan(made["seconds_to_90%"]) and made["error_ratio"] == pytest.approx(0.4)


def test_arms_get_their_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "plot", lambda *args: [])
    monkeypatch.setattr(crest, "fashion", digits)
    config = dataclasses.replace(
        crest.Config(), seeds=(0,), out=str(tmp_path / "out"), steps=80, steps_per_call=10, budgets=(0.5,), hidden=16
    )
    config = dataclasses.replace(config, subset=8, medoids=3, arms=("random 50%", "CREST 50%"))
    records = crest.main(config)
    last = {r["arm"]: r for r in records}
    assert [last[arm]["step"] for arm in config.arms] == [50, 50]
    assert [sum(r["arm"] == arm for r in records) for arm in config.arms] == [4, 4]
    assert last["CREST 50%"]["metrics"]["selections"] > 0
    assert all(r["metrics"]["test_accuracy"] > 0.5 for r in last.values())
