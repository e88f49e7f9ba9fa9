"""CREST's loop against the library's one transformation and by replay; the summary and the batches; a short run."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.datasets import arrays
from experiments.engine import folders, init_mlp
from experiments.selection import _crest_loop, crest
from experiments.selection._crest_loop import COVER, MODEL_BATCHES, Sizes
from minibatch_jax.selection import keep_class_medoids

SIZES = Sizes(subset=6, medoids=2)
ROWS = 10 * SIZES.subset
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
    return jax.tree.map(jnp.asarray, crest.splits(crest.Config())["train"])


@pytest.fixture
def params():
    return init_mlp(jax.random.key(0), (64, 8, 10))


def test_subsets_hold_rows_of_every_class(train):
    subset = np.asarray(_crest_loop.draw_subset(jax.random.key(1), train, 400))
    labels = np.asarray(train["label"])
    for label in range(10):
        own = np.flatnonzero(labels == label)
        assert set(subset[label]) <= set(own.tolist())
        assert len(set(subset[label])) > 0.8 * len(own)  # 1 - exp(-400 / 144) = 0.94


def test_medoids_by_class_are_those_of_the_library(train):
    features = jax.random.normal(jax.random.key(2), (10, 12, 4))
    weights = jax.random.bernoulli(jax.random.key(3), 0.7, (10, 12)).astype(jnp.float32)
    found = jax.jit(functools.partial(_crest_loop.class_medoids, each=3))(weights, features)
    select = keep_class_medoids(30, 10)
    labels = jnp.repeat(jnp.arange(10), 12)
    update = jax.jit(lambda w, f: select.update(w, (), features=f, labels=labels)[0])
    wanted = update(weights.reshape(-1), features.reshape(-1, 4)).reshape(weights.shape)
    distances = np.linalg.norm(features[:, :, None] - features[:, None], axis=3)

    def to_medoids(medoids):  # of two examples alone in a cluster either may be the medoid
        nearest = np.where(np.asarray(medoids)[:, None] > 0, distances, np.inf).min(2)
        return np.where(weights > 0, nearest, 0).sum(1)

    np.testing.assert_allclose(to_medoids(found), to_medoids(wanted), rtol=1e-5)
    np.testing.assert_array_equal(np.sort(found), np.sort(wanted))
    assert not np.any((found > 0) & (weights == 0)) and ((found > 0).sum(1) == 3).all()


def test_learned_rows_stay_out_of_a_coreset(train, params, monkeypatch):
    subset = jnp.concatenate([train["rows_of_class"][:, :5], train["rows_of_class"][:, :1]], axis=1)
    losses = jnp.where(jnp.arange(ROWS) % SIZES.subset < 3, 0.05, 1.0).at[5::6].set(0.05)
    features = jax.random.normal(jax.random.key(4), (ROWS, 10))
    monkeypatch.setattr(_crest_loop, "losses_and_features", lambda *args: (losses, {"features": features}))
    learned = _crest_loop.coreset_selection(len(train["label"]), SIZES).init(losses)
    choose = jax.jit(functools.partial(_crest_loop.coreset, params, train, subset, sizes=SIZES))
    for _ in range(crest.PATIENCE - 1):
        learned = choose(learned=learned)[2]
    rows, weights, _, loss = choose(learned=learned)
    assert float(loss) == pytest.approx(float(losses.mean()))
    assert float(jnp.sum(weights)) == pytest.approx(1)
    kept = set(np.asarray(rows)[np.asarray(weights) > 0].tolist())
    assert kept and kept <= set(np.asarray(subset)[:, 3:5].reshape(-1).tolist())


def test_the_model_is_kept_where_nothing_moves_and_replaced_where_the_loss_jumps(train, params):
    step = jax.jit(functools.partial(_crest_loop.up_to_date, data=train, sizes=SIZES))
    state = _crest_loop.init_crest(params, SIZES, len(train["label"]))
    for number in range(3):
        state = step(jax.random.key(number), params, crest=state)
        state = state._replace(interval=jnp.ones((), jnp.int32))
    assert float(state.costs.selections) == 1
    checks, coresets = 3 * MODEL_BATCHES * ROWS, COVER * ROWS
    assert float(state.costs.forward) == checks + coresets
    assert float(state.costs.gradient) == 2 * MODEL_BATCHES * 10 * SIZES.medoids
    np.testing.assert_allclose(state.weights[: int(state.filled)].sum(1), 1, rtol=1e-5)
    moved = jax.tree.map(lambda x: 5 * x, params)
    assert float(step(jax.random.key(9), moved, crest=state).costs.selections) == 2
    young = state._replace(interval=state.age + 1)
    assert float(step(jax.random.key(9), moved, crest=young).costs.selections) == 1


def test_where_every_row_is_a_medoid_a_coreset_is_a_random_batch(train, params):
    """Stratified by class, so that its error is a little below that of a random batch of the same size."""
    made = [crest.error_ratios(jax.random.key(k), params, train, Sizes(8, 8)) for k in range(20)]
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
